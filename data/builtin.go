package data

import (
	"embed"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/chat"
)

// The built-in chat templates, for base models that have none of their own. Each marks the assistant's text by {% generation %}.
//
//go:embed templates/*.jinja
var templates embed.FS

// TemplateNames lists the built-in chat templates.
func TemplateNames() []string {
	entries, err := templates.ReadDir("templates")
	if err != nil { // the folder is part of the program
		return nil
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = strings.TrimSuffix(e.Name(), ".jinja")
	}
	return out
}

// BuiltinTemplate parses the built-in chat template of that name.
func BuiltinTemplate(name string, o chat.Options) (*chat.Template, error) {
	source, err := templates.ReadFile("templates/" + name + ".jinja")
	if err != nil {
		return nil, fmt.Errorf("there is no built-in chat template %q; there are %s", name, strings.Join(TemplateNames(), ", "))
	}
	if o.Name == "" {
		o.Name = name
	}
	return chat.Parse(string(source), o)
}
