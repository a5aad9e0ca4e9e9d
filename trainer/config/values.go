package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// value is the typed storage behind a key.
type value interface {
	// set reads a resolved node (never an alias). Its error says what was expected and what was found.
	set(n *yaml.Node) error
	// node writes the value; set of the result restores it exactly.
	node() *yaml.Node
	// zero reports whether the value is the zero of its Go type.
	zero() bool
}

type (
	textValue    string
	intValue     int
	uintValue    uint64
	floatValue   float64
	boolValue    bool
	switchValue  string // auto, on or off; the booleans of YAML are read as on and off
	floatsValue  []float64
	namesValue   []string
	targetsValue Targets
	sourcesValue []Source
)

func (v *textValue) zero() bool    { return *v == "" }
func (v *intValue) zero() bool     { return *v == 0 }
func (v *uintValue) zero() bool    { return *v == 0 }
func (v *floatValue) zero() bool   { return *v == 0 }
func (v *boolValue) zero() bool    { return !bool(*v) }
func (v *switchValue) zero() bool  { return *v == "" }
func (v *floatsValue) zero() bool  { return len(*v) == 0 }
func (v *namesValue) zero() bool   { return len(*v) == 0 }
func (v *targetsValue) zero() bool { return v.Pattern == "" && len(v.Names) == 0 }
func (v *sourcesValue) zero() bool { return len(*v) == 0 }

func (v *textValue) set(n *yaml.Node) error {
	s, err := readText(n)
	if err == nil {
		*v = textValue(s)
	}
	return err
}

func (v *intValue) set(n *yaml.Node) error {
	i, ok := parseWhole(n)
	if !ok || i < math.MinInt || i > math.MaxInt {
		return mismatch("a whole number", n)
	}
	*v = intValue(i)
	return nil
}

func (v *uintValue) set(n *yaml.Node) error {
	if isPlain(n) {
		if u, err := strconv.ParseUint(n.Value, 10, 64); err == nil {
			*v = uintValue(u)
			return nil
		}
	}
	return mismatch("a whole number from 0", n)
}

func (v *floatValue) set(n *yaml.Node) error {
	f, err := readFloat(n)
	if err == nil {
		*v = floatValue(f)
	}
	return err
}

func (v *boolValue) set(n *yaml.Node) error {
	b, ok := parseBool(n)
	if !ok {
		return mismatch("true or false", n)
	}
	*v = boolValue(b)
	return nil
}

func (v *switchValue) set(n *yaml.Node) error {
	if b, ok := parseBool(n); ok {
		*v = "off"
		if b {
			*v = "on"
		}
		return nil
	}
	return (*textValue)(v).set(n)
}

func (v *floatsValue) set(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return mismatch("a list of numbers", n)
	}
	list := make([]float64, 0, len(n.Content))
	for _, item := range n.Content {
		f, err := readFloat(resolve(item))
		if err != nil {
			return fmt.Errorf("in the list: %w", err)
		}
		list = append(list, f)
	}
	*v = list
	return nil
}

func (v *targetsValue) set(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		s, err := readText(n)
		if err != nil {
			return mismatch("all-linear, a pattern or a list of names", n)
		}
		*v = targetsValue{Pattern: s}
		return nil
	}
	names, err := readTexts(n)
	*v = targetsValue{Names: names}
	return err
}

func (v *namesValue) set(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return mismatch("a list", n)
	}
	names, err := readTexts(n)
	if *v = names; len(names) == 0 {
		*v = nil
	}
	return err
}

// readTexts reads a list of strings.
func readTexts(n *yaml.Node) ([]string, error) {
	names := make([]string, 0, len(n.Content))
	for _, item := range n.Content {
		s, err := readText(resolve(item))
		if err != nil {
			return nil, fmt.Errorf("in the list: %w", err)
		}
		names = append(names, s)
	}
	return names, nil
}

func (v *sourcesValue) set(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		s, err := readText(n)
		if err != nil {
			return mismatch("a file, a glob or a list of {path, weight}", n)
		}
		*v = nil
		if s != "" {
			*v = sourcesValue{{Path: s, Weight: 1}}
		}
		return nil
	}
	list := make([]Source, 0, len(n.Content))
	for i, item := range n.Content {
		s, err := readSource(resolve(item))
		if err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
		list = append(list, s)
	}
	*v = list
	return nil
}

func (v *textValue) node() *yaml.Node   { return textNode(string(*v)) }
func (v *switchValue) node() *yaml.Node { return textNode(string(*v)) }
func (v *intValue) node() *yaml.Node    { return plainNode("!!int", strconv.Itoa(int(*v))) }
func (v *uintValue) node() *yaml.Node   { return plainNode("!!int", strconv.FormatUint(uint64(*v), 10)) }
func (v *floatValue) node() *yaml.Node  { return floatNode(float64(*v)) }
func (v *boolValue) node() *yaml.Node   { return plainNode("!!bool", strconv.FormatBool(bool(*v))) }

func (v *floatsValue) node() *yaml.Node {
	n := listNode()
	for _, f := range *v {
		n.Content = append(n.Content, floatNode(f))
	}
	return n
}

func (v *namesValue) node() *yaml.Node {
	n := listNode()
	for _, s := range *v {
		n.Content = append(n.Content, textNode(s))
	}
	return n
}

func (v *targetsValue) node() *yaml.Node {
	if v.Names == nil {
		return textNode(v.Pattern)
	}
	n := listNode()
	for _, s := range v.Names {
		n.Content = append(n.Content, textNode(s))
	}
	return n
}

func (v *sourcesValue) node() *yaml.Node {
	if len(*v) == 0 {
		return textNode("")
	}
	if len(*v) == 1 && (*v)[0].Weight == 1 && (*v)[0].Path != "" {
		return textNode((*v)[0].Path)
	}
	n := listNode()
	for _, s := range *v {
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle, Content: []*yaml.Node{
			textNode("path"), textNode(s.Path), textNode("weight"), floatNode(s.Weight),
		}})
	}
	return n
}

// readSource reads "rows.jsonl" or {path: rows.jsonl, weight: 2}.
func readSource(n *yaml.Node) (Source, error) {
	if n.Kind != yaml.MappingNode {
		s, err := readText(n)
		if err != nil || s == "" {
			return Source{}, mismatch("a path or {path, weight}", n)
		}
		return Source{Path: s, Weight: 1}, nil
	}
	out := Source{Weight: 1}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i].Value, resolve(n.Content[i+1])
		if seen[name] {
			return out, fmt.Errorf("%q is given twice", clip(name))
		}
		seen[name] = true
		var err error
		switch name {
		case "path":
			out.Path, err = readText(val)
		case "weight":
			out.Weight, err = readFloat(val)
		default:
			err = fmt.Errorf("unknown key %q; an entry has path and weight", clip(name))
		}
		if err != nil {
			return out, err
		}
	}
	if !seen["path"] {
		return out, errors.New("path is missing")
	}
	return out, nil
}

func readText(n *yaml.Node) (string, error) {
	switch {
	case n.Kind != yaml.ScalarNode, n.Tag == "!!bool", n.Tag == "!!binary":
		return "", mismatch("a text", n)
	case n.Tag == "!!null":
		return "", nil
	case !utf8.ValidString(n.Value) || strings.ContainsRune(n.Value, 0):
		return "", errors.New("the text is not valid UTF-8 or holds a zero byte")
	}
	return n.Value, nil
}

func readFloat(n *yaml.Node) (float64, error) {
	if isPlain(n) && strings.IndexFunc(n.Value, func(r rune) bool { return !strings.ContainsRune("+-.0123456789eE", r) }) < 0 {
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return f, nil
		}
	}
	return 0, mismatch("a finite number", n)
}

// parseWhole accepts 1000 and 1e3.
func parseWhole(n *yaml.Node) (int64, bool) {
	if isPlain(n) {
		if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			return i, true
		}
	}
	f, err := readFloat(n)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

func parseBool(n *yaml.Node) (b, ok bool) {
	if !isPlain(n) {
		return false, false
	}
	switch n.Value {
	case "true", "True", "TRUE":
		return true, true
	case "false", "False", "FALSE":
		return false, true
	}
	return false, false
}

// isPlain reports a scalar written without quotes: only these are numbers and booleans.
func isPlain(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Style == 0 }

// resolve follows an alias to its anchor. Entries of a key are at most two levels deep, so aliases cannot multiply.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func mismatch(want string, n *yaml.Node) error {
	return fmt.Errorf("expected %s, got %s", want, describe(n))
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "a section"
	case n.Kind != yaml.ScalarNode:
		return "something else"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!int" || n.Tag == "!!float" || n.Tag == "!!bool":
		return clip(n.Value)
	}
	return "the text " + strconv.Quote(clip(n.Value))
}

// clip shortens text that is quoted in a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func plainNode(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

func listNode() *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: yaml.FlowStyle}
}

// textNode quotes a text with unusual characters, so that every valid text survives.
func textNode(s string) *yaml.Node {
	n := plainNode("!!str", s)
	for _, r := range s {
		if r < ' ' || r > '~' {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	return n
}

// floatNode writes the shortest text that reads back as f.
func floatNode(f float64) *yaml.Node {
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-3 || a >= 1e15) {
		format = 'e'
	}
	text := strconv.FormatFloat(f, format, -1, 64)
	tag := "!!float"
	if format == 'f' && !strings.Contains(text, ".") {
		tag = "!!int"
	}
	return plainNode(tag, text)
}
