package checkpoint

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
)

// QuantizedInfo says how the quantized weights of a file or folder are stored.
type QuantizedInfo struct {
	Method   string   `json:"method,omitempty"` // quant_method of the folder; "" for a file
	Schemes  []string `json:"schemes"`          // nf4, int8, int4:group=128 ..., each once
	Blocks   []int    `json:"blocksizes,omitempty"`
	Nested   bool     `json:"double"` // scales are quantized again
	Storage  string   `json:"storage,omitempty"`
	Weights  int      `json:"weights"`
	Elements int64    `json:"elements"`
	Bytes    int64    `json:"bytes"`
	Bits     float64  `json:"bits_per_weight"` // codes and scales, without tables of values and descriptions
	Skip     []string `json:"skip_modules,omitempty"`
	Problem  string   `json:"problem,omitempty"` // of the first weight that cannot be read
}

// quantization fills Info.Quantized for a reader that holds quantized weights; config is its config.json.
func (in *Info) quantization(r Reader, config []byte) {
	var c struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	q := &Quantization{Method: MethodBNB}
	out := &QuantizedInfo{Schemes: []string{}}
	if err := json.Unmarshal(config, &c); err == nil && len(c.Quantization) > 0 {
		given, err := ParseQuantization(c.Quantization)
		if err != nil {
			out.Problem = err.Error()
			in.Quantized = out
			return
		}
		if given != nil {
			q, out.Method, out.Skip = given, given.Method, given.Skip
		}
	}
	z, err := OpenQuantized(r, in.Path, q)
	if err != nil {
		out.Problem = err.Error()
		in.Quantized = out
		return
	}
	out.collect(z)
	if err := z.Complete(); err != nil && out.Problem == "" && (out.Weights > 0 || q.Scheme != "") {
		out.Problem = err.Error()
	}
	if out.Weights > 0 || out.Problem != "" || q.Scheme != "" {
		in.Quantized = out
	}
}

func (q *QuantizedInfo) collect(z *Quantized) {
	schemes, blocks := map[string]bool{}, map[int]bool{}
	for _, name := range z.Reader.Names() {
		if len(z.parts[name]) == 0 {
			continue
		}
		h, err := z.describe(name)
		if err != nil {
			if q.Problem == "" {
				q.Problem = err.Error()
			}
			continue
		}
		q.Weights++
		q.Elements += int64(h.Type.Size())
		for _, part := range z.parts[name] {
			if stored, ok := z.Reader.Type(part); ok && !isTable(part) {
				q.Bytes += stored.Bytes()
			}
		}
		q.Nested = q.Nested || h.Config.Double
		if !h.Config.Scheme.FourBit() {
			schemes[h.Name()] = true
			continue
		}
		schemes[h.Config.Scheme.String()], blocks[h.Config.Blocksize] = true, true
		if codes, ok := z.Reader.Type(name); ok {
			q.Storage = codes.DType.String()
		}
	}
	q.Schemes = append(q.Schemes, sortedKeys(schemes)...)
	for b := range blocks {
		q.Blocks = append(q.Blocks, b)
	}
	sort.Ints(q.Blocks)
	if q.Elements > 0 {
		q.Bits = 8 * float64(q.Bytes) / float64(q.Elements)
	}
}

// isTable tells the parts that do not grow with the weight.
func isTable(part string) bool {
	return strings.HasSuffix(part, "quant_map") || strings.HasSuffix(part, ".weight_format") || strings.Contains(part, stateSuffix)
}

func (q *QuantizedInfo) text() string {
	if q.Weights == 0 && q.Problem != "" {
		return "quantized: " + q.Problem
	}
	var b strings.Builder
	fmt.Fprintf(&b, "quantized: %d weights of %d elements in %s", q.Weights, q.Elements, strings.Join(q.Schemes, ", "))
	if len(q.Blocks) > 0 {
		fmt.Fprintf(&b, ", blocks of %s, stored as %s", strings.Trim(fmt.Sprint(q.Blocks), "[]"), q.Storage)
	}
	if q.Nested {
		b.WriteString(", scales quantized again")
	}
	fmt.Fprintf(&b, ", %.3f bits per weight", q.Bits)
	if len(q.Skip) > 0 {
		names := make([]string, len(q.Skip))
		for i, s := range q.Skip {
			names[i] = quoted(s)
		}
		b.WriteString(", kept: " + strings.Join(names, " "))
	}
	if q.Problem != "" {
		b.WriteString("; " + q.Problem)
	}
	return b.String()
}
