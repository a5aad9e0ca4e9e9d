package config

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// groupsValue is a list of {match, lr_scale, weight_decay, bits}.
type groupsValue []ParamGroup

func (v *groupsValue) zero() bool { return len(*v) == 0 }

func (v *groupsValue) set(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return mismatch("a list of {match, lr_scale, weight_decay, bits}", n)
	}
	var list []ParamGroup
	for i, item := range n.Content {
		g, err := readGroup(resolve(item))
		if err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
		list = append(list, g)
	}
	*v = list
	return nil
}

func (v *groupsValue) node() *yaml.Node {
	n := listNode()
	for _, g := range *v {
		m := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle, Content: []*yaml.Node{textNode("match"), textNode(g.Match)}}
		number := func(key string, x *float64) {
			if x != nil {
				m.Content = append(m.Content, textNode(key), floatNode(*x))
			}
		}
		number("lr_scale", g.LRScale)
		number("weight_decay", g.WeightDecay)
		if g.Bits != 0 {
			bits := intValue(g.Bits)
			m.Content = append(m.Content, textNode("bits"), bits.node())
		}
		n.Content = append(n.Content, m)
	}
	return n
}

// groupKeys are the keys of an entry.
var groupKeys = []string{"match", "lr_scale", "weight_decay", "bits"}

// readGroup reads {match: embed, lr_scale: 0.1}.
func readGroup(n *yaml.Node) (ParamGroup, error) {
	var g ParamGroup
	if n.Kind != yaml.MappingNode {
		return g, mismatch("{match, lr_scale, weight_decay, bits}", n)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i].Value, resolve(n.Content[i+1])
		if seen[name] {
			return g, fmt.Errorf("%q is given twice", clip(name))
		}
		seen[name] = true
		var err error
		switch name {
		case "match":
			g.Match, err = readText(val)
		case "lr_scale":
			g.LRScale, err = readNumber(val)
		case "weight_decay":
			g.WeightDecay, err = readNumber(val)
		case "bits":
			err = (*intValue)(&g.Bits).set(val)
		default:
			err = fmt.Errorf("unknown key %q%s", clip(name), didYouMean(name, groupKeys, "an entry has "))
		}
		if err != nil {
			return g, err
		}
	}
	if g.Match == "" {
		return g, errors.New("match is missing: name the parameters, such as match: embed_tokens")
	}
	return g, nil
}

func readNumber(n *yaml.Node) (*float64, error) {
	f, err := readFloat(n)
	if err != nil {
		return nil, err
	}
	return &f, nil
}
