package verify

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// Status is what became of a key of the file.
type Status string

// The statuses.
const (
	Checked Status = "checked" // compared, within the limit
	Skipped Status = "skipped" // not compared, for want of an adapter
	Failed  Status = "failed"  // beyond the limit, or nothing that the model has
	Unknown Status = "unknown" // a key of no known meaning
)

// Number is a float64 whose JSON is null when it is not finite or there is none.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if x := float64(n); math.IsNaN(x) || math.IsInf(x, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// UnmarshalJSON implements json.Unmarshaler; null is NaN.
func (n *Number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(b, (*float64)(n))
}

// String prints three digits, "-" for no number.
func (n Number) String() string {
	if math.IsNaN(float64(n)) {
		return "-"
	}
	return fmt.Sprintf("%.2e", float64(n))
}

// Tensor is the outcome for one key of the file.
type Tensor struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	MaxAbs Number `json:"max_abs"` // largest |a-b|
	MaxRel Number `json:"max_rel"` // largest |a-b| / largest |b|
	Limit  Number `json:"limit"`   // on MaxAbs
	Reason string `json:"reason"`  // why it was not checked, or failed
}

// Result is the outcome of a run.
type Result struct {
	Tensors           []Tensor `json:"tensors"`
	ParamsWithoutGrad []string `json:"params_without_grad"` // parameters that the file has no gradient of
}

// OK reports whether something was checked and nothing failed or was unknown.
func (r *Result) OK() bool {
	checked := false
	for _, t := range r.Tensors {
		switch t.Status {
		case Failed, Unknown:
			return false
		case Checked:
			checked = true
		}
	}
	return checked
}

// compared reports whether any key had a counterpart to be held against.
func (r *Result) compared() bool {
	for _, t := range r.Tensors {
		if t.Status == Checked || t.Status == Failed {
			return true
		}
	}
	return false
}

func (r *Result) addUnknown(ref *reference) {
	for _, name := range ref.unknown {
		o := outcome{status: Unknown, reason: "no key of this name is known"}
		r.Tensors = append(r.Tensors, o.tensor(name))
	}
}

// WriteJSON writes the result as one indented object.
func (r *Result) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteTable writes one line a key and a summary.
func (r *Result) WriteTable(w io.Writer) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var b strings.Builder
	b.WriteString("TENSOR\tSTATUS\tMAX ABS\tMAX REL\tLIMIT\tREASON\n")
	count := map[Status]int{}
	for _, t := range r.Tensors {
		count[t.Status]++
		fmt.Fprintf(&b, "%s\t%s\t%v\t%v\t%v\t%s\n", printable(t.Name), t.Status, t.MaxAbs, t.MaxRel, t.Limit, printable(t.Reason))
	}
	if _, err := io.WriteString(tab, b.String()); err != nil {
		return err
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	if len(r.ParamsWithoutGrad) > 0 {
		if _, err := fmt.Fprintf(w, "parameters without a gradient in the file: %s\n", strings.Join(r.ParamsWithoutGrad, ", ")); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d checked, %d failed, %d unknown, %d skipped\n", count[Checked], count[Failed], count[Unknown], count[Skipped])
	return err
}

// printable keeps a name from a file from steering the terminal or the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
