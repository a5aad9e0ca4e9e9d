package data

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/nearest"
)

// Roles are those that turns may have with any chat template: OpenAI's, and what other templates call the answer of a tool. Other layouts' names for
// them are mapped.
var Roles = []string{"system", "developer", "user", Assistant, "tool", "function", "ipython"}

// RoleNamer is a Renderer whose template has roles of its own.
type RoleNamer interface {
	// NamesRole reports whether the template names the role.
	NamesRole(role string) bool
}

// NamesRole implements RoleNamer: the role stands in the template, in quotes.
func (r *TemplateRenderer) NamesRole(role string) bool {
	src := r.t.Source()
	return role != "" && (strings.Contains(src, "'"+role+"'") || strings.Contains(src, `"`+role+`"`))
}

// UnknownRole finds the first message whose role is not one of Roles, is not named by the renderer's template and is not among others. Most templates
// write any role as it is, so that a misspelt one would be trained as a party of its own.
func UnknownRole(c *Conversation, r Renderer, others []string) (message int, unknown bool) {
	for i, m := range c.Messages {
		if slices.Contains(Roles, m.Role) || slices.Contains(others, m.Role) {
			continue
		}
		if n, ok := r.(RoleNamer); ok && n.NamesRole(m.Role) {
			continue
		}
		return i, true
	}
	return 0, false
}

// MeantRole is the role that was most likely meant by one that is not known, "" where none is near.
func MeantRole(role string, others []string) string {
	return nearest.Of(role, append(slices.Clip(Roles), others...), 2)
}

// knownRoles refuses roles that nobody knows.
func (c *Converter) knownRoles(r *Row, conv *Conversation) error {
	i, unknown := UnknownRole(conv, c.Renderer, c.Roles)
	if !unknown || c.AnyRole {
		return nil
	}
	role, hint := conv.Messages[i].Role, ""
	if best := MeantRole(role, c.Roles); best != "" {
		hint = fmt.Sprintf("did you mean %q? ", best)
	}
	return r.Errorf("turn %d has the role %.40q, which is not known; %sknown are %s and what the chat template names; list another in data.roles (trainer eval: --role)", i+1, role,
		hint, strings.Join(append(slices.Clip(Roles), c.Roles...), ", "))
}
