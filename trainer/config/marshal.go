package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Marshal writes every key in a fixed order and without comments; loading the result gives the same configuration. Every
// value is written, so nothing depends on the defaults of the version that reads it.
func (c Config) Marshal() ([]byte, error) {
	root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	sections := map[string]*yaml.Node{"": root}
	for _, f := range fields(&c) {
		n := f.value.node()
		if err := checkNode(n); err != nil {
			return nil, &ErrConfig{Key: f.key, Reason: err.Error()}
		}
		name := sectionOf(f.key)
		section, ok := sections[name]
		if !ok {
			section = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			sections[name] = section
			parent := sections[sectionOf(name)] // of a nested section it is there already: its other keys come first
			parent.Content = append(parent.Content, plainNode("!!str", name[strings.LastIndex(name, ".")+1:]), section)
		}
		leaf := f.key[strings.LastIndex(f.key, ".")+1:]
		section.Content = append(section.Content, plainNode("!!str", leaf), n)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return out.Bytes(), nil
}

// checkNode refuses what YAML cannot give back: bad UTF-8 and non-finite numbers.
func checkNode(n *yaml.Node) error {
	for _, child := range n.Content {
		if err := checkNode(child); err != nil {
			return err
		}
	}
	if n.Kind != yaml.ScalarNode {
		return nil
	}
	if n.Tag == "!!str" {
		_, err := readText(n)
		return err
	}
	if n.Tag == "!!float" || n.Tag == "!!int" {
		_, err := readFloat(n)
		return err
	}
	return nil
}

// Hash is the SHA-256, in hex, of what decides the result of a run. Left out are out, resume, device, eval, save,
// train.memory and train.fit: they say where and how often, not what; but with the schedule plateau, which reads the evaluations,
// eval.every is hashed. Keys at their Go zero value, and keys added later at their default, are left out too, so that they do not
// change the hash of older runs.
//
// Hashed are lines "key=value\n" in the order of Keys, the value in YAML flow form, after the line "config 1\n".
func (c Config) Hash() (string, error) {
	sum := sha256.New()
	sum.Write([]byte("config 1\n"))
	for _, f := range fields(&c) {
		if f.silent && !(f.key == "eval.every" && c.Train.Schedule == "plateau") || f.value.zero() || f.atDefault() {
			continue
		}
		text, err := yaml.Marshal(f.value.node())
		if err != nil {
			return "", fmt.Errorf("hashing %s: %w", f.key, err)
		}
		fmt.Fprintf(sum, "%s=%s", f.key, text)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
