package config

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
)

const builtinPrefix = "builtin:"

// Builtin returns the name of the model that the program makes itself ("tiny" for "builtin:tiny").
func (c Config) Builtin() (name string, ok bool) {
	return strings.CutPrefix(c.Model, builtinPrefix)
}

// Architecture returns the path of the config.json that Model names: a model described but without weights, which
// pretraining initialises.
func (c Config) Architecture() (path string, ok bool) {
	return c.Model, strings.EqualFold(filepath.Ext(c.Model), ".json")
}

// modelName makes a short folder name of a model's path.
func modelName(model string) string {
	name := strings.TrimPrefix(model, builtinPrefix)
	clean := filepath.Clean(name)
	base := filepath.Base(clean)
	if strings.EqualFold(base, "config.json") && filepath.Dir(clean) != "." {
		base = filepath.Base(filepath.Dir(clean))
	}
	for _, ext := range []string{".gguf", ".json", ".bin", ".safetensors"} {
		base = strings.TrimSuffix(base, ext)
	}
	base = strings.Map(func(r rune) rune {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
		if !ok {
			return '-'
		}
		return r
	}, base)
	if base = strings.Trim(base, "-."); base == "" {
		return "model"
	}
	return base
}

var byteUnits = map[string]float64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

// ParseBytes reads a size such as "16GiB", "16g" (both 2^34), "16GB" (16e9), "1.5 GiB" or "1073741824".
func ParseBytes(s string) (int64, error) {
	text := strings.TrimSpace(s)
	cut := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if cut < 0 {
		cut = len(text)
	}
	number, err := strconv.ParseFloat(text[:cut], 64)
	unit, ok := byteUnits[strings.ToLower(strings.TrimSpace(text[cut:]))]
	if err != nil || !ok {
		return 0, fmt.Errorf("%q is not a size: write a number and a unit, such as 16GiB or 800MB", s)
	}
	if bare := strings.TrimSpace(text[cut:]) == ""; bare && number < 1<<16 {
		return 0, fmt.Errorf("%q has no unit, and would be bytes: write for example %sGiB", s, text[:cut])
	}
	bytes := number * unit
	if bytes < 1 || bytes >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is out of range: a size is at least one byte and below 8 EiB", s)
	}
	return int64(bytes), nil
}
