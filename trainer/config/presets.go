package config

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

// Names that the loader uses when no model is given.
const (
	BuiltinPreset         = "builtin-tiny"
	BuiltinPretrainPreset = "builtin-tiny-pretrain"
	// BuiltinData as data.path selects the rows that the program makes itself.
	BuiltinData = "builtin"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// Preset is a configuration that comes with the program, commented, to be read, copied and edited.
type Preset struct {
	Name    string
	Summary string // its first comment line
	Command string // the command it is for
	YAML    []byte
}

// Presets lists the embedded presets by name.
func Presets() []Preset {
	names, err := fs.Glob(presetFiles, "presets/*.yaml")
	if err != nil {
		return nil
	}
	var list []Preset
	for _, name := range names {
		data, err := presetFiles.ReadFile(name)
		if err != nil {
			continue
		}
		p := Preset{Name: strings.TrimSuffix(path.Base(name), ".yaml"), Command: Finetune, YAML: data}
		first, _, _ := strings.Cut(string(data), "\n")
		p.Summary = strings.TrimSpace(strings.TrimPrefix(first, "#"))
		if strings.Contains(p.Name, Pretrain) {
			p.Command = Pretrain
		}
		list = append(list, p)
	}
	return list
}

// FindPreset returns the preset of that name.
func FindPreset(name string) (Preset, bool) {
	for _, p := range Presets() {
		if p.Name == name {
			return p, true
		}
	}
	return Preset{}, false
}

func presetNames() []string {
	var names []string
	for _, p := range Presets() {
		names = append(names, p.Name)
	}
	return names
}
