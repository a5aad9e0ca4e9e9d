package optim

import (
	"fmt"
	"path"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Override changes how single parameters are updated: those of Vars, and those whose name matches Pattern. With Vars it is what torch
// calls a parameter group, with a pattern what bitsandbytes' GlobalOptimManager does for modules. Fields left zero change nothing.
type Override struct {
	Vars    []*graph.Var
	Pattern string // of names as in path.Match, "*" matching any run of characters without a slash: "*.embed_tokens.weight"

	Optimizer string  // name of another optimizer for these parameters, with its Defaults but the rounding of the group's
	Bits      int     // of the states, whatever the size: 32, or 8 with an 8bit optimizer
	LRScale   float64 // factor of the learning rate
	LR        float64 // a learning rate of their own, which no schedule changes
	// Change edits the hyperparameters; New's rule for zeros applies to the result.
	Change func(c *Config)
}

// holds reports whether a parameter is meant.
func (v *Override) holds(p *graph.Var) bool {
	if slices.Contains(v.Vars, p) {
		return true
	}
	ok, err := path.Match(v.Pattern, p.Name)
	return ok && err == nil && v.Pattern != ""
}

// apply changes a choice.
func (v *Override) apply(c *choice) error {
	if v.Optimizer != "" {
		o, err := New(v.Optimizer, Config{})
		if err != nil {
			return err
		}
		rounding, seed := c.config.Rounding, c.config.Seed
		c.class, c.config = o.class, o.class.defaults
		c.config.Rounding, c.config.Seed = rounding, seed
	}
	if v.Bits != 0 {
		c.bits = v.Bits
	}
	if v.LR != 0 {
		c.lr = v.LR
	}
	if v.LRScale != 0 {
		c.lrScale *= v.LRScale
	}
	if v.Change != nil {
		v.Change(&c.config)
		c.config = c.class.fill(c.config)
		return c.class.check(c.config)
	}
	return nil
}

// checkOverrides refuses what cannot be meant.
func checkOverrides(params []*graph.Var, list []Override) error {
	for i := range list {
		v := &list[i]
		if v.Bits != 0 && v.Bits != 8 && v.Bits != 32 {
			return fmt.Errorf("optim: override %d: states have 8 or 32 bits, not %d", i, v.Bits)
		}
		if !finiteFrom0(v.LR) || !finiteFrom0(v.LRScale) {
			return fmt.Errorf("optim: override %d: a learning rate of %v or its factor %v is not a finite number above 0", i, v.LR, v.LRScale)
		}
		if _, err := path.Match(v.Pattern, ""); err != nil {
			return fmt.Errorf("optim: override %d: pattern %q: %w", i, v.Pattern, err)
		}
		for _, p := range v.Vars {
			if p == nil || !slices.Contains(params, p) {
				return fmt.Errorf("optim: override %d names a variable that is not among the group's parameters: %v", i, p)
			}
		}
		if v.Pattern != "" && !slices.ContainsFunc(params, v.holds) {
			return fmt.Errorf("optim: override %d: pattern %q matches none of the %d parameters, such as %s", i, v.Pattern, len(params), params[0].Name)
		}
		if v.Pattern == "" && len(v.Vars) == 0 {
			return fmt.Errorf("optim: override %d names no parameter; set Vars or Pattern", i)
		}
	}
	return nil
}
