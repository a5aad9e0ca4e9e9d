package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// override is one setting from the command line.
type override struct {
	name string // as written, without dashes
	key  string // dotted key
	text string
}

// Split sorts the arguments of a command into positional ones, overrides for Load and flags of the command itself.
// own names those flags (without dashes) and says whether each takes a value. An override that is not a boolean takes the
// next argument when it has no "=". After "--" everything is positional.
func Split(args []string, own map[string]bool) (positional, overrides, flags []string, err error) {
	rows := fields(new(Config))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(positional, args[i+1:]...), overrides, flags, nil
		}
		if short, ok := strings.CutPrefix(arg, "-"); ok && len(short) == 1 && short != "-" {
			if _, mine := own[short]; !mine {
				return nil, nil, nil, unknownFlag(rows, short, own)
			}
			flags = append(flags, arg)
			continue
		}
		if len(arg) < 3 || !strings.HasPrefix(arg, "--") {
			positional = append(positional, arg)
			continue
		}
		name, _, inline := strings.Cut(arg[2:], "=")
		takes, mine := own[name]
		dest := &flags
		if !mine {
			f, ok := findField(rows, flagKey(name))
			if !ok {
				return nil, nil, nil, unknownFlag(rows, name, own)
			}
			_, isBool := f.value.(*boolValue)
			takes, dest = !isBool, &overrides
		}
		*dest = append(*dest, arg)
		if takes && !inline {
			if i++; i == len(args) || strings.HasPrefix(args[i], "--") {
				return nil, nil, nil, needsValue(name)
			}
			*dest = append(*dest, args[i])
		}
	}
	return positional, overrides, flags, nil
}

// splitOverrides pairs names with their values and reports unknown and incomplete ones.
func (r *reader) splitOverrides(args []string) []override {
	var out []override
	for i := 0; i < len(args); i++ {
		name, dashed := strings.CutPrefix(args[i], "--")
		if !dashed {
			r.errs = append(r.errs, &ErrConfig{Reason: fmt.Sprintf("unexpected argument %q: an override is --key=value", clip(args[i]))})
			continue
		}
		name, text, inline := strings.Cut(name, "=")
		f, ok := findField(r.rows, flagKey(name))
		if !ok {
			r.errs = append(r.errs, unknownFlag(r.rows, name, nil))
			// What follows an unknown flag is most likely its value.
			if !inline && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
				i++
			}
			continue
		}
		if !inline {
			if _, isBool := f.value.(*boolValue); isBool {
				text = "true"
			} else if i++; i == len(args) || strings.HasPrefix(args[i], "--") {
				r.errs = append(r.errs, needsValue(name))
				i--
				continue
			} else {
				text = args[i]
			}
		}
		out = append(out, override{name: name, key: f.key, text: text})
	}
	return out
}

// enclosed reports a list or mapping in the flow style of YAML.
func enclosed(text, open, end string) bool {
	return strings.HasPrefix(text, open) && strings.HasSuffix(text, end)
}

// node makes the YAML node that the text of a flag stands for. Only lists are parsed as YAML: a text is taken as it is.
func (o override) node(v value) (*yaml.Node, error) {
	switch v.(type) {
	case *floatsValue, *targetsValue, *sourcesValue, *groupsValue, *intsValue, *namesValue, *numbersValue:
		if enclosed(o.text, "[", "]") || enclosed(o.text, "{", "}") {
			var doc yaml.Node
			if len(o.text) > maxFile {
				return nil, fmt.Errorf("the list is too long")
			}
			if err := yaml.Unmarshal([]byte(o.text), &doc); err != nil || len(doc.Content) != 1 {
				return nil, fmt.Errorf("%q is not a list", clip(o.text))
			}
			return resolve(doc.Content[0]), nil
		}
		return plainNode("!!str", o.text), nil
	case *textValue:
		return plainNode("!!str", o.text), nil
	}
	return plainNode("", o.text), nil
}

// flagKey returns the dotted key that a flag's name stands for.
func flagKey(name string) string {
	if key, ok := shortForms[name]; ok {
		return key
	}
	return name
}

func needsValue(name string) error {
	return &ErrConfig{Key: name, Flag: true, Reason: fmt.Sprintf("needs a value: write --%s=value", name)}
}

func unknownFlag(rows []field, name string, own map[string]bool) error {
	e := &ErrConfig{Key: clip(name), Flag: true}
	if e.Key == "" {
		e.Key = "--"
	}
	if isSection(rows, name) {
		e.Reason = "is a section: set one of its keys, such as --" + strings.Join(sectionKeys(name), ", --")
		return e
	}
	hint := suggestFlag(name, own)
	e.Reason = "unknown flag" + hint
	return e
}
