package optest

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Matrix prints which ops a device runs in which dtypes, from the table: one Markdown row an op.
func Matrix(dev device.Device) (string, error) {
	uses, err := Uses()
	if err != nil {
		return "", err
	}
	var names []string
	for name := range uses {
		names = append(names, name)
	}
	labels := map[string]int{}
	for _, name := range names {
		labels[label(name, uses[name].Op)]++
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := label(names[i], uses[names[i]].Op), label(names[j], uses[names[j]].Op)
		return a < b || a == b && names[i] < names[j]
	})
	columns := append(append([]tensor.DType{}, Floats...), append(append([]tensor.DType{}, Ints...), tensor.Bool)...)
	var b strings.Builder
	b.WriteString("| op |")
	for _, d := range columns {
		fmt.Fprintf(&b, " %v |", d)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, name := range names {
		u := uses[name]
		if leaf(u.Op) {
			continue
		}
		text := label(name, u.Op)
		if labels[text] > 1 {
			text += " (" + name + ")"
		}
		fmt.Fprintf(&b, "| %s |", text)
		for _, d := range columns {
			cell, err := support(dev, u.Types[d])
			if err != nil {
				return "", fmt.Errorf("%s in %v: %w", name, d, err)
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

func leaf(op graph.Op) bool {
	switch op.(type) {
	case graph.Input, graph.Read, graph.Constant:
		return true
	}
	return false
}

func label(key string, op graph.Op) string {
	if _, name, ok := strings.Cut(key, " "); ok {
		return name
	}
	return op.Name()
}

// support says how a device runs a node: K by a kernel, D by its decomposition, V as a view of its input, nothing where the table
// has no such case, and x where it cannot.
func support(dev device.Device, n *graph.Node) (string, error) {
	if n == nil {
		return "", nil
	}
	_, err := dev.Kernel(device.Spec{Op: n.Op, In: n.InTypes(), Out: n.Out})
	switch {
	case err == nil:
		return "K", nil
	case !errors.Is(err, device.ErrNoKernel):
		return "", err
	}
	if v, ok := n.Op.(graph.Viewer); ok {
		if _, ok := v.View(n.InTypes()); ok {
			return "V", nil
		}
	}
	if _, ok := n.Op.(graph.Decomposable); ok {
		return "D", nil
	}
	return "x", nil
}
