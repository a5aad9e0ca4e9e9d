package onnx

import (
	"fmt"
	"slices"
	"strings"
)

// Report is the outcome of all cases.
type Report struct{ Results []Result }

// Complete reports whether every case ran: the -run flag may choose some.
func (r *Report) Complete() bool {
	return !slices.ContainsFunc(r.Results, func(x Result) bool { return !x.Ran })
}

// Share is the part of the cases that passed.
func (r *Report) Share() float64 {
	n := 0
	for _, x := range r.Results {
		if x.Passed {
			n++
		}
	}
	return float64(n) / float64(max(len(r.Results), 1))
}

// Unmet lists the cases of differentiable operators that did not pass, with the reason.
func (r *Report) Unmet() []string {
	var out []string
	for _, x := range r.Results {
		if o, ok := operators[key(x.Case.Domain, x.Case.Op)]; ok && o.NoGrad == "" && !x.Passed {
			out = append(out, fmt.Sprintf("%s: %s", x.Case.Name, x.Reason))
		}
	}
	return out
}

// Summary is one line of numbers, then one line a reason.
func (r *Report) Summary() string {
	passed, tight, checked := 0, 0, 0
	reasons := map[string]int{}
	for _, x := range r.Results {
		switch {
		case x.Passed:
			passed++
		case x.Reason != "":
			reasons[x.Reason]++
		default:
			reasons["wrong result"]++
		}
		if x.Passed && x.Tight {
			tight++
		}
		if x.Checked && x.Passed {
			checked++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d cases of %d operators: %d passed (%.1f%%), %d of them within 1e-6 + 1e-5·|want|, %d gradient-checked.\n",
		len(r.Results), len(r.rows()), passed, 100*r.Share(), tight, checked)
	for _, why := range sortedKeys(reasons) {
		fmt.Fprintf(&b, "%d not run: %s\n", reasons[why], why)
	}
	return b.String()
}

// row is the outcome of one operator.
type row struct {
	cases, passed, checked int
	reasons                []string
}

func (r *Report) rows() map[string]*row {
	rows := map[string]*row{}
	for _, x := range r.Results {
		k := key(x.Case.Domain, x.Case.Op)
		if rows[k] == nil {
			rows[k] = &row{}
		}
		o := rows[k]
		o.cases++
		if x.Passed {
			o.passed++
		}
		if x.Checked && x.Passed {
			o.checked++
		}
		if !x.Passed && !slices.Contains(o.reasons, x.Reason) {
			o.reasons = append(o.reasons, x.Reason)
		}
	}
	return rows
}

// Table is a Markdown table with one row an operator.
func (r *Report) Table() string {
	rows := r.rows()
	var b strings.Builder
	b.WriteString("| operator | cases | passed | gradient-checked | remark |\n|---|---|---|---|---|\n")
	for _, k := range sortedKeys(rows) {
		o := rows[k]
		remark := strings.Join(o.reasons, "; ")
		if op, ok := operators[k]; ok && op.NoGrad != "" {
			remark = strings.TrimSuffix("no gradient: "+op.NoGrad+"; "+remark, "; ")
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %s |\n", k, o.cases, o.passed, o.checked, remark)
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
