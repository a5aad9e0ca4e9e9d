package layers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Check compares a model with the source that its weights came from; call it once where the model is built. A weight that no field leads to,
// because the field is not exported or has no tag, would be neither trained nor saved, and one whose tags make another name than the source
// knows it by would not be found in a file again. The error names the first of them.
func (s Source) Check(model any) error {
	if err := s.Err(); err != nil {
		return err
	}
	at := map[*graph.Var]string{}
	Walk(model, func(p Param) {
		if p.Quantized == nil {
			at[p.Var] = p.Name
			return
		}
		for _, v := range p.Quantized.Vars() {
			at[v] = "" // their names follow the first's
		}
		at[p.Quantized.Codes] = p.Name
	})
	var lost, renamed []string
	for v := range s.state().byVar {
		name, ours := strings.CutPrefix(v.Name, s.path(""))
		path, reached := at[v]
		switch {
		case !ours:
		case !reached:
			lost = append(lost, v.Name)
		case path != "" && path != name:
			renamed = append(renamed, fmt.Sprintf("%s is %s", v.Name, s.path(path)))
		}
	}
	slices.Sort(lost)
	slices.Sort(renamed)
	switch {
	case len(lost) > 0:
		return fmt.Errorf("layers: no field of %T leads to %s%s: fields that hold layers and weights are exported and have a tag, such as `name:\"q_proj\"`", model, lost[0],
			andMore(len(lost)))
	case len(renamed) > 0:
		return fmt.Errorf("layers: by the tags of %T the weight %s%s: give the field and the source one name", model, renamed[0], andMore(len(renamed)))
	}
	return nil
}

// andMore tells of those of n that are not named.
func andMore(n int) string {
	if n < 2 {
		return ""
	}
	return fmt.Sprintf(" (and %d more like it)", n-1)
}
