package lora

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Store reads and writes the values of variables: a plan.Store.
type Store interface {
	layers.Values
	layers.Reader
}

// Merge folds every module into its base weight, W + s·B·A or for DoRA m/‖W + s·B·A‖·(W + s·B·A), puts what was trained whole into the
// model's own variables, and switches the adapter off; other adapters of the model stay beside the weights. A quantized base is dequantized,
// changed, and quantized again with its own scheme, which rounds. A weight that would become non-finite is left alone and named. A head that
// is an adapted embedding becomes one of its own, as the adapter has no part in it. Plans compiled earlier still add the adapter: compile them
// again.
func (a *Adapter) Merge(s Store) error {
	if a.merged {
		return nil
	}
	if s == nil {
		return errNoStore
	}
	off := a.off
	a.SetActive(true) // what is folded in are the variables in the model's fields
	if err := a.fold(s); err != nil {
		a.SetActive(!off)
		return errors.Join(err, a.joinHead(s))
	}
	a.merged = true
	a.useBase(true)
	return nil
}

// fold changes the weights for Merge. When it fails they are as they were, up to rounding.
func (a *Adapter) fold(s Store) error {
	if err := a.wholeFits(s); err != nil {
		return err
	}
	if err := a.partHead(s); err != nil {
		return err
	}
	for i, m := range a.Modules {
		err := m.mergeable()
		if err == nil {
			err = m.merge(s)
		}
		if err != nil {
			return a.unfold(s, i, fmt.Errorf("lora: %s: %w", m.Path, err))
		}
	}
	if err := a.exchangeWhole(s); err != nil {
		return a.unfold(s, len(a.Modules), err)
	}
	return nil
}

// unfold takes the first n modules out again after a failed merge.
func (a *Adapter) unfold(s Store, n int, err error) error {
	for _, m := range a.Modules[:n] {
		if uerr := m.unmerge(s); uerr != nil {
			return fmt.Errorf("%w; taking back what was merged before it failed too: %w", err, uerr)
		}
	}
	return err
}

// Unmerge takes a merged adapter out of the base weights again, up to rounding, and switches it on, unless SetActive has switched it off
// meanwhile. Where DoRA has scaled a weight, what was merged into it last comes out first.
func (a *Adapter) Unmerge(s Store) error {
	if !a.merged {
		return nil
	}
	if s == nil {
		return errNoStore
	}
	for _, m := range a.Modules {
		if err := m.unmergeable(); err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
	}
	if err := a.exchangeWhole(s); err != nil { // in the opposite order of Merge: trained tokens are rows of a table that may be adapted
		return err
	}
	off := a.off
	a.off = false
	a.useBase(false)
	for _, m := range a.Modules {
		if err := m.unmerge(s); err != nil {
			return fmt.Errorf("lora: %s: %w", m.Path, err)
		}
	}
	a.merged = false
	a.SetActive(!off)
	return a.joinHead(s)
}

// Merged reports whether the adapter lies in the base weights.
func (a *Adapter) Merged() bool { return a.merged }

// useBase puts the model's own variables, which hold the trained values of a merged adapter, into their fields, or the adapter's back. A head
// that was trained whole stays, as there is no other.
func (a *Adapter) useBase(merged bool) {
	for _, w := range a.whole {
		w.use(!merged && !a.off)
	}
	for _, h := range a.heads {
		switch _, rows := h.head.(*tokenHead); {
		case !merged:
			h.use(!a.off)
		case h.merged != nil:
			h.fill(h.merged)
		case rows: // they lie in the table that is the head again
			h.fill(nil)
		}
	}
}

// exchangeWhole swaps what was trained whole with the model's own values.
func (a *Adapter) exchangeWhole(s Store) error {
	for _, w := range a.whole {
		if w.replace == nil { // a head of its own
			continue
		}
		if err := w.exchange(s); err != nil {
			return fmt.Errorf("lora: %s: %w", w.key, err)
		}
	}
	for _, k := range a.tokens {
		if err := k.exchange(s); err != nil {
			return fmt.Errorf("lora: %s: %w", k.path, err)
		}
	}
	return nil
}

// mergeable says why a module cannot be folded into its base.
func (m *Module) mergeable() error {
	list := m.siblings()
	for _, other := range list {
		if other != m && other.Magnitude != nil && !other.set.merged {
			return fmt.Errorf("the DoRA adapter %q on the same layer scales the weight as it is; merge that one first, or remove it", other.set.Name)
		}
	}
	if m.BBias == nil {
		return nil
	}
	w, ok := m.linear.Base.(layers.Weighted)
	if !ok || w.BiasVar() == nil {
		return fmt.Errorf("the adapter's B has a bias (lora_bias), and the layer has none that it could be added to; keep the adapter beside the weights")
	}
	return nil
}

// unmergeable says why a merged module cannot be taken out of its base: DoRA has scaled it together with what was there before.
func (m *Module) unmergeable() error {
	for _, other := range m.siblings() {
		if other.turn > m.turn && (other.Magnitude != nil || m.Magnitude != nil) {
			return fmt.Errorf("the adapter %q was merged into the same weight later, one of the two with DoRA, which scales both; unmerge that one first", other.set.Name)
		}
	}
	return nil
}

func (m *Module) siblings() []*Module {
	if m.linear != nil {
		return m.linear.Parts.list
	}
	if m.group != nil {
		return m.group.Parts.list
	}
	if t, ok := m.embed.Adapter.(*table); ok {
		return t.Parts.list
	}
	return nil
}

// merge folds the module into the base weight.
func (m *Module) merge(s Store) error {
	w, delta, err := m.weightAndDelta(s)
	if err != nil {
		return err
	}
	data := w.Float32s()
	for i, d := range delta {
		data[i] = float32(float64(data[i]) + float64(d))
	}
	factor, err := m.factors(s, data)
	if err != nil {
		return err
	}
	if err := m.writeScaled(s, data, factor, func(x, f float64) float64 { return x * f }); err != nil {
		return err
	}
	m.factor, m.turn = factor, 1
	for _, other := range m.siblings() {
		if other != m {
			m.turn = max(m.turn, other.turn+1)
		}
	}
	return m.addBias(s, 1)
}

// unmerge is the inverse of merge.
func (m *Module) unmerge(s Store) error {
	w, delta, err := m.weightAndDelta(s)
	if err != nil {
		return err
	}
	data := w.Float32s()
	if m.factor != nil {
		m.scaleRows(data, m.factor, func(x, f float64) float64 { return x / f })
	}
	for i, d := range delta {
		data[i] = float32(float64(data[i]) - float64(d))
	}
	if err := m.writeScaled(s, data, nil, nil); err != nil {
		return err
	}
	m.factor, m.turn = nil, 0
	return m.addBias(s, -1)
}

// weightAndDelta reads the base weight and what the module adds to it, both as (out, in) or, of an embedding, (vocabulary, features).
func (m *Module) weightAndDelta(s Store) (*tensor.Tensor, []float32, error) {
	w, err := m.readBase(s)
	if err != nil {
		return nil, nil, err
	}
	delta, err := m.Delta(s)
	return w, delta, err
}

// readBase reads the base weight in float32.
func (m *Module) readBase(s layers.Reader) (*tensor.Tensor, error) {
	if m.embed != nil {
		return wide(s, m.embed.Weight)
	}
	if m.group != nil {
		w, err := m.group.weighted()
		if err != nil {
			return nil, err
		}
		return w.ReadWeight(s)
	}
	w, ok := m.linear.Base.(layers.Weighted)
	if !ok {
		return nil, fmt.Errorf("the weight of a %T cannot be read as a matrix", m.linear.Base)
	}
	return w.ReadWeight(s)
}

// writeBase stores the base weight, rounded or quantized as it was.
func (m *Module) writeBase(s layers.Values, w *tensor.Tensor) error {
	if m.embed != nil {
		return set(s, map[*graph.Var]*tensor.Tensor{m.embed.Weight: w})
	}
	if m.group != nil {
		l, err := m.group.weighted()
		if err != nil {
			return err
		}
		return l.WriteWeight(w, s)
	}
	l, ok := m.linear.Base.(layers.Weighted)
	if !ok {
		return fmt.Errorf("the weight of a %T cannot be written as a matrix", m.linear.Base)
	}
	return l.WriteWeight(w, s)
}

// factors returns m/‖row‖ for each row of W + s·B·A, nil without DoRA. Of an embedding it is each column.
func (m *Module) factors(s Store, data []float32) ([]float32, error) {
	if m.Magnitude == nil {
		return nil, nil
	}
	mag, err := wide(s, m.Magnitude)
	if err != nil {
		return nil, err
	}
	out := make([]float32, len(mag.Float32s()))
	for i, square := range m.squares(data, len(out)) {
		out[i] = float32(float64(mag.Float32s()[i]) / math.Sqrt(square))
	}
	return out, nil
}

// squares are the squared norms of the n rows of a weight, or of an embedding's columns.
func (m *Module) squares(data []float32, n int) []float64 {
	out := make([]float64, n)
	m.eachRow(data, n, func(i int, x *float32) { out[i] += float64(float64(*x) * float64(*x)) })
	return out
}

func (m *Module) scaleRows(data, factor []float32, by func(x, f float64) float64) {
	m.eachRow(data, len(factor), func(i int, x *float32) { *x = float32(by(float64(*x), float64(factor[i]))) })
}

// eachRow visits the elements of a weight with the number of their row of n, or of an embedding's column.
func (m *Module) eachRow(data []float32, n int, f func(i int, x *float32)) {
	if m.embed != nil {
		for ; len(data) > 0; data = data[n:] {
			for i := range data[:n] {
				f(i, &data[i])
			}
		}
		return
	}
	in := len(data) / n
	for i := range n {
		row := data[i*in : (i+1)*in]
		for k := range row {
			f(i, &row[k])
		}
	}
}

// writeScaled stores a weight, its rows scaled if factors are given. One with a value that is not finite is not stored.
func (m *Module) writeScaled(s Store, data, factor []float32, by func(x, f float64) float64) error {
	if factor != nil {
		m.scaleRows(data, factor, by)
	}
	dims := []int{m.B.Type.Dim(0), m.A.Type.Dim(1)}
	switch {
	case m.embed != nil:
		dims = []int{dims[1], dims[0]}
	case m.group != nil:
		dims = append([]int{m.count}, dims...)
	}
	w, err := tensor.Of(data, dims...)
	if err != nil {
		return err
	}
	if err := finite(w); err != nil {
		return err
	}
	if stored := m.storedType(); stored != tensor.F32 {
		if rounded, err := w.Convert(stored); err != nil || finite(rounded) != nil {
			return fmt.Errorf("merging makes a value too large for %v; nothing was changed", stored)
		}
	}
	return m.writeBase(s, w)
}

// storedType is the dtype that a full-precision base is stored in, float32 for a quantized one.
func (m *Module) storedType() tensor.DType {
	if m.embed != nil {
		return m.embed.Weight.Type.DType
	}
	if m.group != nil {
		return m.group.storedType()
	}
	switch l := m.linear.Base.(type) {
	case *layers.Linear:
		return l.Weight.Type.DType
	case *layers.Conv1D:
		return l.Weight.Type.DType
	}
	return tensor.F32
}

// finite names the first element that is not.
func finite(w *tensor.Tensor) error {
	for i := range w.Type().Size() {
		if y := w.At(i); y-y != 0 {
			return fmt.Errorf("merging makes element %d %v; nothing was changed", i, y)
		}
	}
	return nil
}

// addBias adds s·b to the bias of the layer, for an adapter whose B has a bias b.
func (m *Module) addBias(s Store, sign float64) error {
	if m.BBias == nil {
		return nil
	}
	w, ok := m.linear.Base.(layers.Weighted)
	if !ok {
		return fmt.Errorf("a %T has no bias", m.linear.Base)
	}
	b, err := s.Get(w.BiasVar())
	if err != nil {
		return err
	}
	own, err := s.Get(m.BBias)
	if err != nil {
		return err
	}
	for i := range own.Type().Size() {
		b.Set(i, b.At(i)+sign*m.Scale*own.At(i))
	}
	return s.Set(w.BiasVar(), b)
}

// Delta returns s·B·A as row-major float32 values, accumulated in float64: (out, in), (vocabulary, features) of an embedding, or (experts, out,
// in).
func (m *Module) Delta(s layers.Reader) ([]float32, error) {
	at, err := wide(s, m.A)
	if err != nil {
		return nil, err
	}
	bt, err := wide(s, m.B)
	if err != nil {
		return nil, err
	}
	a, b := at.Float32s(), bt.Float32s()
	r, in, out := m.A.Type.Dim(0), m.A.Type.Dim(1), m.B.Type.Dim(0)
	if m.embed != nil { // (s·B·A)ᵀ = s·Aᵀ·Bᵀ
		return product(transposed(a, r, in), transposed(b, out, r), m.Scale, in, r, out), nil
	}
	if m.group != nil {
		return expertProducts(b, a, m.Scale, m.count, out, m.Rank(), in), nil
	}
	return product(b, a, m.Scale, out, r, in), nil
}

// product is scale·b·a of b (rows, r) and a (r, cols).
func product(b, a []float32, scale float64, rows, r, cols int) []float32 {
	out := make([]float32, rows*cols)
	row := make([]float64, cols)
	for o := range rows {
		clear(row)
		for k := range r {
			f := scale * float64(b[o*r+k])
			for i, x := range a[k*cols : (k+1)*cols] {
				row[i] += float64(f * float64(x))
			}
		}
		for i, x := range row {
			out[o*cols+i] = float32(x)
		}
	}
	return out
}

func transposed(x []float32, rows, cols int) []float32 {
	out := make([]float32, len(x))
	for r := range rows {
		for c := range cols {
			out[c*rows+r] = x[r*cols+c]
		}
	}
	return out
}

// wide reads a variable as float32.
func wide(s layers.Reader, v *graph.Var) (*tensor.Tensor, error) {
	t, err := s.Get(v)
	if err != nil {
		return nil, err
	}
	return t.Convert(tensor.F32)
}
