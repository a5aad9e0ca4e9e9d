package evaluate

import (
	"encoding/json"
	"io"
)

// rowOut is a line of WriteRows.
type rowOut struct {
	Task    string `json:"task"`
	Row     int    `json:"row"` // from 0, as in the file's order
	Adapter string `json:"adapter,omitempty"`
	Result  any    `json:"result"`
}

// WriteRows writes every row of the result as a line of JSON: its task, its number and what was found. adapter, if not empty, stands in each.
func (r *Result) WriteRows(w io.Writer, adapter string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	write := func(task string, n int, row func(i int) any) error {
		for i := range n {
			if err := enc.Encode(rowOut{task, i, adapter, row(i)}); err != nil {
				return err
			}
		}
		return nil
	}
	if p := r.Perplexity; p != nil {
		type window struct {
			Tokens int     `json:"tokens"`
			NLL    float64 `json:"nll"`
		}
		if err := write("text", len(p.units), func(i int) any { return window{int(p.units[i].n), p.units[i].sum / max(p.units[i].n, 1)} }); err != nil {
			return err
		}
	}
	if c := r.Conversations; c != nil {
		if err := write("messages", len(c.Rows), func(i int) any { return c.Rows[i] }); err != nil {
			return err
		}
	}
	if c := r.Choices; c != nil {
		if err := write("choices", len(c.Rows), func(i int) any { return c.Rows[i] }); err != nil {
			return err
		}
	}
	if e := r.Exact; e != nil {
		return write("exact", len(e.Rows), func(i int) any { return e.Rows[i] })
	}
	return nil
}

// WriteRows writes the rows of both sides.
func (c *Comparison) WriteRows(w io.Writer) error {
	if err := c.With.WriteRows(w, c.Adapter); err != nil {
		return err
	}
	return c.Base.WriteRows(w, "none")
}
