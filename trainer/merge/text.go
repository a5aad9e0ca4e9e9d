package merge

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// WriteText prints a summary for a person: the whole, and the weights that rounding took most from.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "merged %s into %s (%s), written as %s to %s\n", r.Adapter, r.Model, r.Base, r.DType, r.Out)
	var changed, lost float64
	for _, l := range r.Layers {
		changed += l.changed
		lost += l.lost
	}
	share := 0.0
	if changed > 0 {
		share = math.Sqrt(lost / changed)
	}
	fmt.Fprintf(&b, "%d weights changed; rounding to %s moved them by %.2f%% of the change\n", len(r.Layers), r.DType, 100*share)
	worst := slices.Clone(r.Layers)
	slices.SortStableFunc(worst, func(a, b Layer) int {
		switch {
		case a.Loss > b.Loss:
			return -1
		case a.Loss < b.Loss:
			return 1
		}
		return 0
	})
	const shown = 5
	for i, l := range worst {
		if i == shown || l.Loss == 0 {
			break
		}
		fmt.Fprintf(&b, "  %-60s changed by %.3g of its norm, rounding by %.2f%% of that, at most %.2g\n", l.Name, l.Change, 100*l.Loss, l.MaxAbs)
	}
	if r.Quantized == nil {
		_, err := io.WriteString(w, b.String())
		return err
	}
	b.WriteString("\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return r.Quantized.WriteTable(w)
}
