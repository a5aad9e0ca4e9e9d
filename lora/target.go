package lora

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Targets picks modules by path. The zero value is all-linear: every projection except the output head. Pattern is a regular
// expression that must match the whole path; Names match a path that equals a name or ends in "."+name, as PEFT has it. Names and
// patterns may mean embeddings too.
type Targets struct {
	Pattern string
	Names   []string
}

// outputHeads are what all-linear leaves out.
var outputHeads = []string{"lm_head", "embed_out", "output"}

func (t Targets) all() bool { return t.Pattern == "" && len(t.Names) == 0 }

func (t Targets) matcher() (func(path string) bool, error) {
	switch {
	case t.Pattern != "" && len(t.Names) > 0:
		return nil, fmt.Errorf("lora: targets give both a pattern and names; use one of them")
	case t.Pattern != "":
		re, err := compile("^(?:" + t.Pattern + ")$")
		if err != nil {
			return nil, fmt.Errorf("lora: target pattern: %w", err)
		}
		return re.MatchString, nil
	case len(t.Names) > 0:
		return func(path string) bool { return named(path, t.Names) }, nil
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

// named reports whether a path is one of the names or ends in one after a dot.
func named(path string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return path == n || strings.HasSuffix(path, "."+n) })
}

// selector tells whether a module is adapted: it is a target in one of the layers, not excluded and not trained whole.
func (c Config) selector() (func(path string) bool, error) {
	match, err := c.Targets.matcher()
	if err != nil {
		return nil, err
	}
	allowed, err := c.allows()
	return func(path string) bool { return match(path) && allowed(path) }, err
}

// allows tells whether a module may be adapted if it is a target.
func (c Config) allows() (func(path string) bool, error) {
	excluded := func(path string) bool { return named(path, c.Exclude) }
	if c.ExcludePattern != "" {
		re, err := compile("^(?:" + c.ExcludePattern + ")$")
		if err != nil {
			return nil, fmt.Errorf("lora: exclude pattern: %w", err)
		}
		excluded = re.MatchString
	}
	inLayer, err := c.layerSelector()
	if err != nil {
		return nil, err
	}
	return func(path string) bool {
		return inLayer(path) && !excluded(path) && !within(path, c.ModulesToSave)
	}, nil
}

// layerSelector tells whether a module lies in one of the chosen layers. Without a pattern the layer's number is the first part that is a
// number and has two parts before and one after it.
func (c Config) layerSelector() (func(path string) bool, error) {
	if len(c.Layers) == 0 {
		return func(string) bool { return true }, nil
	}
	exprs := []string{`^.*?\.[^.]*\.(\d+)\.`}
	if len(c.LayersPattern) > 0 {
		exprs = nil
		for _, p := range c.LayersPattern {
			exprs = append(exprs, `^(?:|.*?\.)(?:`+p+`)\.(\d+)\.`)
		}
	}
	var res []*regexp.Regexp
	for _, e := range exprs {
		re, err := compile(e)
		if err != nil {
			return nil, fmt.Errorf("lora: layers pattern: %w", err)
		}
		res = append(res, re)
	}
	return func(path string) bool {
		for _, re := range res {
			if m := re.FindStringSubmatch(path); m != nil {
				n, err := strconv.Atoi(m[len(m)-1])
				return err == nil && slices.Contains(c.Layers, n)
			}
		}
		return false
	}, nil
}

// within reports whether a path is or lies below a module of one of the names.
func within(path string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.Contains("."+path+".", "."+n+".") })
}

// commonNames describes the adapted modules among all, weights of experts and routers aside: by the last part of their paths where every path
// that ends so is adapted, else by the paths themselves. Sorted.
func commonNames(adapted, all []*layer) []string {
	total, chosen := map[string]int{}, map[string]int{}
	for _, l := range all {
		if !l.param() {
			total[lastPart(l.path)]++
		}
	}
	for _, l := range adapted {
		chosen[lastPart(l.path)]++
	}
	out := []string{}
	for _, l := range adapted {
		name := lastPart(l.path)
		if chosen[name] != total[name] {
			name = l.path
		}
		if !l.param() && !slices.Contains(out, name) {
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
