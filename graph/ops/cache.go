package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// CacheWrite puts new keys or values into a KV cache: inputs are the cache (B, H, Tmax, D), x (B, T, H, D) of the same dtype and
// pos (B) i32; the output is the cache with x[b, t, h] at [b, h, pos[b]+t]. It updates a variable in place: a plan that would
// have to copy the cache is refused. Positions outside the capacity are an error when the step runs.
//
// It has no gradient: caches are for inference.
type CacheWrite struct{}

var (
	_ graph.Aliaser      = CacheWrite{}
	_ graph.Decomposable = CacheWrite{}
	_ graph.Frozen       = CacheWrite{}
	_ graph.Coster       = CacheWrite{}
)

// WriteCache returns the cache with x written from position pos of each row on; see CacheWrite.
func WriteCache(cache, x, pos Value) Value { return one(CacheWrite{}, cache, x, pos) }

// Name implements graph.Op.
func (CacheWrite) Name() string { return "cache_write" }

// Infer implements graph.Op.
func (CacheWrite) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	c, x, pos := in[0], in[1], in[2]
	switch {
	case c.Rank() != 4 || x.Rank() != 4 || x.DType != c.DType:
		return nil, fmt.Errorf("the cache must be (B, H, Tmax, D) and x (B, T, H, D) of one dtype, got %v and %v", c, x)
	case x.Dim(0) != c.Dim(0) || x.Dim(2) != c.Dim(1) || x.Dim(3) != c.Dim(3):
		return nil, fmt.Errorf("x %v does not match batch, heads and head size of the cache %v", x.Shape, c.Shape)
	case x.Dim(1) > c.Dim(2):
		return nil, fmt.Errorf("%d positions do not fit a cache of %d; make the cache longer or write less at a time", x.Dim(1), c.Dim(2))
	case pos != tensor.T(tensor.I32, c.Dim(0)):
		return nil, fmt.Errorf("pos must be %v, got %v", tensor.T(tensor.I32, c.Dim(0)), pos)
	}
	return []tensor.Type{c}, nil
}

// Alias implements graph.Aliaser.
func (CacheWrite) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0, Required: true}}
}

// FrozenInput implements graph.Frozen.
func (CacheWrite) FrozenInput(i int) string {
	if i > 1 {
		return ""
	}
	return "a cache is updated in place, for inference; in training attend to the keys and values themselves"
}

// Cost implements graph.Coster: only what is written moves.
func (CacheWrite) Cost(in, _ []tensor.Type) (flops, bytes int64) { return 0, 2 * in[1].Bytes() }

// Decompose implements graph.Decomposable. Positions outside the capacity are dropped.
func (CacheWrite) Decompose(in []Value) []Value {
	cache, x, pos := in[0], in[1], in[2]
	b, t, h, d, size := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3), cache.Dim(2)
	g := cache.Graph()
	at := Sub(Iota(g, tensor.T(tensor.I32, 1, size), 1), Reshape(pos, b, 1)) // index into x along T
	fresh := And(GreaterEqual(at, Scalar(at, 0)), Less(at, Scalar(at, float64(t))))
	row := Add(at, Scale(Iota(g, tensor.T(tensor.I32, b, 1), 0), float64(t)))
	picked := Gather(Reshape(x, b*t, h, d), 0, Where(fresh, row, Scalar(at, -1))) // (B, Tmax, H, D)
	return []Value{Where(Reshape(fresh, b, 1, size, 1), Transpose(picked, 0, 2, 1, 3), cache)}
}
