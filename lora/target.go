package lora

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// Targets picks modules by path. The zero value is all-linear: every projection except the output head. Pattern is a regular
// expression that must match the whole path; Names match a path that equals a name or ends in "."+name, as PEFT has it.
type Targets struct {
	Pattern string
	Names   []string
}

// outputHeads are what all-linear leaves out.
var outputHeads = []string{"lm_head", "embed_out", "output"}

func (t Targets) matcher() (func(path string) bool, error) {
	switch {
	case t.Pattern != "" && len(t.Names) > 0:
		return nil, fmt.Errorf("lora: targets give both a pattern and names; use one of them")
	case t.Pattern != "":
		re, err := regexp.Compile("^(?:" + t.Pattern + ")$")
		if err != nil {
			return nil, fmt.Errorf("lora: target pattern: %w", err)
		}
		return re.MatchString, nil
	case len(t.Names) > 0:
		return func(path string) bool {
			return slices.ContainsFunc(t.Names, func(n string) bool { return path == n || strings.HasSuffix(path, "."+n) })
		}, nil
	}
	return func(path string) bool { return !slices.Contains(outputHeads, lastPart(path)) }, nil
}

// String prints the targets as a config has them.
func (t Targets) String() string {
	switch {
	case t.Pattern != "":
		return fmt.Sprintf("%q", t.Pattern)
	case len(t.Names) > 0:
		return "[" + strings.Join(t.Names, ", ") + "]"
	}
	return "all-linear"
}

func excluded(path string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return path == n || strings.HasSuffix(path, "."+n) })
}

// commonNames describes the adapted modules among all paths: by the last part of their paths where every path that ends so is
// adapted, else by the paths themselves. Sorted.
func commonNames(adapted []Module, all []string) []string {
	total, chosen := map[string]int{}, map[string]int{}
	for _, p := range all {
		total[lastPart(p)]++
	}
	for _, m := range adapted {
		chosen[lastPart(m.Path)]++
	}
	var out []string
	for _, m := range adapted {
		name := lastPart(m.Path)
		if chosen[name] != total[name] {
			name = m.Path
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// suffixes lists the distinct last parts of paths.
func suffixes(paths []string) string {
	var out []string
	for _, p := range paths {
		if s := lastPart(p); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}
