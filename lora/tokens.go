package lora

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// tokensSuffix ends the name of trained rows in files.
const tokensSuffix = ".token_adapter.trainable_tokens_delta"

// tokens are rows of an embedding that are trained alone (PEFT's trainable_token_indices). They stand in the place of the table's rows, and
// of the head's where the head is the table.
type tokens struct {
	path  string
	base  *graph.Var // the table (vocabulary, features)
	ids   []int      // ascending as given
	delta *graph.Var // (len(ids), features)
	set   *Adapter
	table *table
	embed *layers.Embedding
}

// takeTokens puts the configured rows on their embeddings.
func (a *Adapter) takeTokens(model any) error {
	for _, name := range sortedKeys(a.Config.Tokens) {
		path, e := findEmbedding(model, name)
		if e == nil {
			return fmt.Errorf("lora: trained tokens: the model has no embedding %q", name)
		}
		if err := a.addTokens(model, path, e, a.Config.Tokens[name]); err != nil {
			return err
		}
	}
	return nil
}

// findEmbedding finds an embedding by its name; "" is the first.
func findEmbedding(model any, name string) (path string, e *layers.Embedding) {
	layers.Embeddings(model, func(p string, x *layers.Embedding) {
		if e == nil && (name == "" || named(p, []string{name})) {
			path, e = p, x
		}
	})
	return path, e
}

func (a *Adapter) addTokens(model any, path string, e *layers.Embedding, ids []int) error {
	vocab, dim := e.Weight.Type.Dim(0), e.Weight.Type.Dim(1)
	listed := map[int]bool{}
	for _, id := range ids {
		if id < 0 || id >= vocab {
			return fmt.Errorf("lora: trained tokens: the embedding %s has rows 0 to %d, not %d", path, vocab-1, id)
		}
		if listed[id] {
			return fmt.Errorf("lora: trained tokens: row %d of %s is listed twice", id, path)
		}
		listed[id] = true
	}
	if len(ids) == 0 {
		return fmt.Errorf("lora: trained tokens: no row of %s is listed", path)
	}
	t, ok := e.Adapter.(*table)
	if !ok {
		t = newTable(e)
		e.Adapter = t
	}
	for _, other := range t.Rows.list {
		if slices.ContainsFunc(other.ids, func(id int) bool { return listed[id] }) {
			return fmt.Errorf("lora: trained tokens: two adapters train the same row of %s", path)
		}
	}
	k := &tokens{path: path, base: e.Weight, ids: slices.Clone(ids), set: a, table: t, embed: e}
	k.delta = graph.NewVar(a.varName(path, tokensSuffix[1:]), tensor.T(a.Config.param(), len(ids), dim))
	k.delta.Supplied = true
	t.Rows.list = append(t.Rows.list, k)
	a.tokens = append(a.tokens, k)
	if tied, ok := model.(layers.Tied); ok && tied.TiedTable() == e.Weight {
		if head, fill := vacantHead(model); fill != nil {
			h := &ownHead{head: &tokenHead{frozenTable{e.Weight}, k}, path: head, fill: fill}
			a.heads = append(a.heads, h)
			fill(h.head)
		}
	}
	return nil
}

func (k *tokens) detach() {
	k.table.Rows.list = slices.DeleteFunc(k.table.Rows.list, func(x *tokens) bool { return x == k })
	if len(k.table.Rows.list) == 0 && len(k.table.Parts.list) == 0 {
		k.embed.Adapter = nil
	}
}

// slots maps each row of the table to the trained row that stands for it, -1 for none: i32 (vocabulary).
func (k *tokens) slots() (*tensor.Tensor, error) {
	out := make([]int32, k.base.Type.Dim(0))
	for i := range out {
		out[i] = -1
	}
	for i, id := range k.ids {
		out[id] = int32(i)
	}
	return tensor.Of(out)
}

// place returns for slots i32 (...) which are trained rows, bool (..., 1), and the rows' numbers, 0 elsewhere.
func place(slot graph.Value) (is, row graph.Value) {
	zero := ops.Scalar(slot, 0)
	is = ops.GreaterEqual(slot, zero)
	dims := append(slices.Clone(slot.Shape().Dims()), 1)
	return ops.Reshape(is, dims...), ops.Max(slot, zero)
}

// lookup replaces rows y (..., features) of ids.
func (k *tokens) lookup(ids, y graph.Value) graph.Value {
	g := ids.Graph()
	slots, err := k.slots()
	if err != nil {
		return g.Fail("trained_tokens", []graph.Value{ids}, err)
	}
	is, row := place(ops.Embed(g.Const(slots), ids))
	return ops.Where(is, ops.Cast(ops.Embed(g.Read(k.delta), row), y.DType()), y)
}

// tokenHead is a tied head whose rows of trained tokens are the trained ones.
type tokenHead struct {
	frozenTable
	rows *tokens
}

// Forward implements layers.Projection.
func (h *tokenHead) Forward(x graph.Value) graph.Value {
	y := h.frozenTable.Forward(x)
	if !y.Valid() || !h.rows.set.contributes() {
		return y
	}
	g := x.Graph()
	slots, err := h.rows.slots()
	if err != nil {
		return g.Fail("trained_tokens", []graph.Value{x}, err)
	}
	slot := g.Const(slots)
	zero := ops.Scalar(slot, 0)
	own := ops.Gather(ops.Linear(x, ops.Cast(g.Read(h.rows.delta), x.DType())), -1, ops.Max(slot, zero))
	return ops.Where(ops.GreaterEqual(slot, zero), own, y)
}

// rows are the trained rows on one table.
type rows struct{ list []*tokens }

// NamedVars implements layers.Namer.
func (r *rows) NamedVars() []layers.NamedVar {
	var out []layers.NamedVar
	for _, k := range r.list {
		n := tokensSuffix[1:]
		if k.set.Name != "" {
			n += "." + k.set.Name
		}
		out = append(out, layers.NamedVar{Name: n, Var: k.delta})
	}
	return out
}

// exchange swaps the trained rows with those of the table. Its own inverse, but for rounding to a narrower dtype.
func (k *tokens) exchange(s Store) error {
	own, err := s.Get(k.delta)
	if err != nil {
		return err
	}
	base, err := s.Get(k.base)
	if err != nil {
		return err
	}
	dim := k.base.Type.Dim(1)
	for i, id := range k.ids {
		for c := range dim {
			x := own.At(i*dim + c)
			own.Set(i*dim+c, base.At(id*dim+c))
			base.Set(id*dim+c, x)
		}
	}
	return set(s, map[*graph.Var]*tensor.Tensor{k.delta: own, k.base: base})
}

// putRows puts the trained rows into a table.
func (k *tokens) putRows(s layers.Reader, table *tensor.Tensor) error {
	own, err := s.Get(k.delta)
	if err != nil {
		return err
	}
	dim := k.base.Type.Dim(1)
	for i, id := range k.ids {
		for c := range dim {
			table.Set(id*dim+c, own.At(i*dim+c))
		}
	}
	return nil
}

// copyTokens begins the trained rows at the table's.
func (a *Adapter) copyTokens(s Store) error {
	for _, k := range a.tokens {
		base, err := s.Get(k.base)
		if err != nil {
			return err
		}
		dim := k.base.Type.Dim(1)
		own := tensor.New(k.delta.Type)
		for i, id := range k.ids {
			for c := range dim {
				own.Set(i*dim+c, base.At(id*dim+c))
			}
		}
		if err := s.Set(k.delta, own); err != nil {
			return err
		}
	}
	return nil
}
