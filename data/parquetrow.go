package data

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// pqNode is a node of the schema with its levels, and how it is written as JSON. A row is put together from its columns as Dremel has
// it (Melnik et al. 2010, section 4.3): the definition level of a value says which of its optional and repeated ancestors are
// there, the repetition level at which of them a list goes on.
type pqNode struct {
	name     string
	kind     pqKind
	leaf     parquet.Kind
	optional bool
	repeated bool
	def, rep int // levels at which the node is there
	lo, hi   int // its columns
	kids     []*pqNode
}

type pqKind int

const (
	pqLeaf pqKind = iota
	pqGroup
	pqList // a group around one repeated field, written as its elements
	pqMap  // a group around repeated keys and values
)

const pqDepth = 32

func newPQNode(n parquet.Node, name string, def, rep int, column *int) (*pqNode, error) {
	out := &pqNode{name: name, optional: n.Optional(), repeated: n.Repeated(), def: def, rep: rep, lo: *column}
	if out.optional || out.repeated {
		out.def++
	}
	if out.repeated {
		out.rep++
	}
	if out.def > pqDepth {
		return nil, fmt.Errorf("the schema is nested more than %d deep", pqDepth)
	}
	if n.Leaf() {
		out.leaf = n.Type().Kind()
		*column++
		out.hi = *column
		return out, nil
	}
	out.kind = pqGroup
	for _, f := range n.Fields() {
		kid, err := newPQNode(f, f.Name(), out.def, out.rep, column)
		if err != nil {
			return nil, err
		}
		out.kids = append(out.kids, kid)
	}
	if out.hi = *column; out.hi == out.lo {
		return nil, fmt.Errorf("group %q has no column", name)
	}
	if len(out.kids) == 1 && out.kids[0].repeated {
		out.kind = out.listOrMap(n.Type())
	}
	return out, nil
}

// listOrMap tells what a group around one repeated field means: its annotation, or for files that have none the field's usual name.
func (n *pqNode) listOrMap(t parquet.Type) pqKind {
	kid := n.kids[0]
	var logical format.LogicalTypeValue
	if lt := t.LogicalType(); lt != nil {
		logical = lt.Value
	}
	switch logical.(type) {
	case *format.ListType:
		return pqList
	case *format.MapType:
		if len(kid.kids) == 2 && kid.kids[0].kind == pqLeaf {
			return pqMap
		}
	}
	if kid.name == "list" && kid.element() != nil {
		return pqList
	}
	return pqGroup
}

// element is what a repeated field of a list holds: the one field of the group "list", or the field itself as older writers have it.
func (n *pqNode) element() *pqNode {
	if n.kind == pqGroup && len(n.kids) == 1 && n.name != "array" {
		return n.kids[0]
	}
	return nil
}

// pqRow walks the columns of a row.
type pqRow struct {
	columns [][]parquet.Value
	out     []byte
	max     int
}

// object writes a row as a JSON object.
func (n *pqNode) object(row parquet.Row, most int) ([]byte, error) {
	w := &pqRow{columns: make([][]parquet.Value, n.hi), max: most}
	for lo := 0; lo < len(row); {
		c, hi := row[lo].Column(), lo
		for hi < len(row) && row[hi].Column() == c {
			hi++
		}
		if c < 0 || c >= n.hi || w.columns[c] != nil {
			return nil, fmt.Errorf("the columns of the row are out of order; write the file again")
		}
		w.columns[c] = row[lo:hi]
		lo = hi
	}
	for c := range w.columns {
		if len(w.columns[c]) == 0 {
			return nil, fmt.Errorf("column %d of the row has no value; write the file again", c)
		}
	}
	err := w.group(n)
	return w.out, err
}

// take removes the next value of a column.
func (w *pqRow) take(column int) (v parquet.Value, err error) {
	c := w.columns[column]
	if len(c) == 0 {
		return v, fmt.Errorf("column %d of the row is too short; write the file again", column)
	}
	w.columns[column] = c[1:]
	return c[0], nil
}

// skip removes one null from each column of a node that is not there.
func (w *pqRow) skip(n *pqNode) error {
	for c := n.lo; c < n.hi; c++ {
		if _, err := w.take(c); err != nil {
			return err
		}
	}
	return nil
}

// there reports whether a node has a value at this place.
func (w *pqRow) there(n *pqNode) bool {
	c := w.columns[n.lo]
	return len(c) > 0 && c[0].DefinitionLevel() >= n.def
}

func (w *pqRow) group(n *pqNode) error {
	w.out = append(w.out, '{')
	first := true
	for _, kid := range n.kids {
		if !kid.repeated && !w.there(kid) {
			if err := w.skip(kid); err != nil {
				return err
			}
			continue
		}
		mark := len(w.out)
		if !first {
			w.out = append(w.out, ',')
		}
		w.text(kid.name)
		w.out = append(w.out, ':')
		wrote, err := w.value(kid)
		if err != nil {
			return err
		}
		if !wrote {
			w.out = w.out[:mark]
			continue
		}
		first = false
	}
	w.out = append(w.out, '}')
	return nil
}

// value writes what is at this place; false for a value that JSON has no word for, such as bytes that are not text.
func (w *pqRow) value(n *pqNode) (bool, error) {
	if len(w.out) > w.max {
		return false, fmt.Errorf("row is longer than %d bytes; split it", w.max)
	}
	switch {
	case n.repeated:
		return true, w.list(n, nil)
	case n.kind == pqList:
		return true, w.list(n.kids[0], n.kids[0].element())
	case n.kind == pqMap:
		return true, w.mapping(n.kids[0])
	case n.kind == pqGroup:
		return true, w.group(n)
	}
	v, err := w.take(n.lo)
	if err != nil {
		return false, err
	}
	return w.scalar(n.leaf, v), nil
}

// each calls f for every element of the repeated node n; nothing is left of its columns at this place afterwards.
func (w *pqRow) each(n *pqNode, f func() error) error {
	if !w.there(n) {
		return w.skip(n)
	}
	for {
		before := len(w.columns[n.lo])
		if err := f(); err != nil {
			return err
		}
		c := w.columns[n.lo]
		if len(c) == 0 || c[0].RepetitionLevel() < n.rep {
			return nil
		}
		if len(c) == before {
			return fmt.Errorf("a list of the row does not end; write the file again")
		}
	}
}

func (w *pqRow) list(n, element *pqNode) error {
	w.out = append(w.out, '[')
	start := len(w.out)
	err := w.each(n, func() error {
		if len(w.out) > start {
			w.out = append(w.out, ',')
		}
		item := *n
		item.repeated = false
		if element != nil {
			item = *element
		}
		wrote, err := false, error(nil)
		if item.repeated || w.there(&item) {
			wrote, err = w.value(&item)
		} else {
			err = w.skip(&item)
		}
		if err == nil && !wrote {
			w.out = append(w.out, "null"...)
		}
		return err
	})
	w.out = append(w.out, ']')
	return err
}

func (w *pqRow) mapping(n *pqNode) error {
	key, val := n.kids[0], n.kids[1]
	w.out = append(w.out, '{')
	start := len(w.out)
	err := w.each(n, func() error {
		k, err := w.take(key.lo)
		if err != nil {
			return err
		}
		mark := len(w.out)
		if mark > start {
			w.out = append(w.out, ',')
		}
		w.text(k.String())
		w.out = append(w.out, ':')
		wrote := false
		if val.repeated || w.there(val) {
			wrote, err = w.value(val)
		} else {
			err = w.skip(val)
		}
		if err == nil && !wrote {
			w.out = w.out[:mark]
		}
		return err
	})
	w.out = append(w.out, '}')
	return err
}

func (w *pqRow) scalar(kind parquet.Kind, v parquet.Value) bool {
	switch kind {
	case parquet.Boolean:
		w.out = strconv.AppendBool(w.out, v.Boolean())
	case parquet.Int32:
		w.out = strconv.AppendInt(w.out, int64(v.Int32()), 10)
	case parquet.Int64:
		w.out = strconv.AppendInt(w.out, v.Int64(), 10)
	case parquet.Float, parquet.Double:
		x := v.Double()
		if kind == parquet.Float {
			x = float64(v.Float())
		}
		if !finite(x) {
			return false
		}
		w.out = strconv.AppendFloat(w.out, x, 'g', -1, 64)
	case parquet.ByteArray:
		if !utf8.Valid(v.ByteArray()) {
			return false
		}
		w.text(string(v.ByteArray()))
	default:
		return false
	}
	return true
}

func (w *pqRow) text(s string) {
	b, err := json.Marshal(s)
	if err != nil { // a string always has a JSON form
		b = []byte(`""`)
	}
	w.out = append(w.out, b...)
}
