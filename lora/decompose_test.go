package lora_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/linalg"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const wideIn, wideOut = 64, 40

// initialised makes one layer, quantized or not, and an adapter with its initial values.
func initialised(t *testing.T, c lora.Config, q *quant.Config) (*lora.Adapter, *plan.Store, *tensor.Tensor) {
	t.Helper()
	o := layers.Options{Seed: 3}
	if q != nil {
		o.Quantize = func(string) (quant.Config, bool) { return *q, true }
	}
	src := layers.NewSource(o)
	m := &quantizedNet{src.Linear("up_proj", wideIn, wideOut, false)}
	full := layers.NewSource(layers.Options{Seed: 3})
	dense := full.Linear("up_proj", wideIn, wideOut, false)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, src.Load(store))
	require.NoError(t, full.Load(store))
	w, err := dense.(layers.Weighted).ReadWeight(store)
	require.NoError(t, err)
	a, err := lora.Attach(m, c)
	require.NoError(t, err)
	require.NoError(t, a.InitFrom(store, src.Original))
	return a, store, w
}

// distance is the Frobenius norm of w less the base and what the adapter adds to it, squared.
func distance(t *testing.T, a *lora.Adapter, s *plan.Store, w *tensor.Tensor) float64 {
	t.Helper()
	base, err := a.Modules[0].Base().(layers.Weighted).ReadWeight(s)
	require.NoError(t, err)
	delta, err := a.Modules[0].Delta(s)
	require.NoError(t, err)
	sum := 0.0
	for i, d := range delta {
		x := w.At(i) - base.At(i) - float64(d)
		sum += x * x
	}
	return sum
}

// LoftQ takes from the error of quantization what a matrix of its rank can, more so with every alternation.
func TestLoftQ(t *testing.T) {
	for _, q := range []quant.Config{{Scheme: quant.NF4, Blocksize: 64}, {Scheme: quant.FP4, Blocksize: 64, Double: true}, {Scheme: quant.Int8}} {
		t.Run(q.Name(), func(t *testing.T) {
			c := lora.Config{Rank: 8, Alpha: 24}
			a, s, w := initialised(t, c, &q)
			plain := distance(t, a, s, w)
			c.Init = lora.InitLoftQ
			a, s, w = initialised(t, c, &q)
			once := distance(t, a, s, w)
			require.Less(t, once, 0.75*plain)
			rest := residualOf(t, a, s, w, 8)
			require.InEpsilon(t, rest, once, 1e-3, "what is left is what no matrix of the rank can make up for")
			c.LoftQSteps = 5
			a, s, w = initialised(t, c, &q)
			require.Less(t, distance(t, a, s, w), once)
		})
	}
}

// residualOf is the sum of the squares of the singular values of the quantization error beyond the r largest.
func residualOf(t *testing.T, a *lora.Adapter, s *plan.Store, w *tensor.Tensor, r int) float64 {
	t.Helper()
	base, err := a.Modules[0].Base().(layers.Weighted).ReadWeight(s)
	require.NoError(t, err)
	e := linalg.New(wideOut, wideIn)
	for i := range e.Data {
		e.Data[i] = w.At(i) - base.At(i)
	}
	svd, err := linalg.TopSVD(e, wideOut)
	require.NoError(t, err)
	sum := 0.0
	for _, x := range svd.S[r:] {
		sum += x * x
	}
	return sum
}

// PiSSA and OLoRA leave the sum as it was; what PiSSA leaves in the base is the rest of the singular values. A quantized base comes nearer to the
// weight than plain quantization, as the large parts are no longer quantized.
func TestPiSSAAndOLoRA(t *testing.T) {
	for _, init := range []lora.Init{lora.InitPiSSA, "pissa_niter_6", lora.InitOLoRA} {
		a, s, w := initialised(t, lora.Config{Rank: 8, Alpha: 4, Init: init, RSLoRA: true}, nil)
		require.Less(t, distance(t, a, s, w), 1e-10, init)
		disturb(t, a, s)
		require.NoError(t, a.Init(s))
		require.Less(t, distance(t, a, s, w), 1e-10, "%s: a second time it takes nothing more", init)
	}
	a, s, w := initialised(t, lora.Config{Rank: 8, Alpha: 4, Init: lora.InitPiSSA}, nil)
	base, err := a.Modules[0].Base().(layers.Weighted).ReadWeight(s)
	require.NoError(t, err)
	full := linalg.New(wideOut, wideIn)
	for i := range full.Data {
		full.Data[i] = w.At(i)
	}
	svd, err := linalg.TopSVD(full, wideOut)
	require.NoError(t, err)
	want, got := 0.0, 0.0
	for _, x := range svd.S[8:] {
		want += x * x
	}
	for i := range base.Type().Size() {
		got += base.At(i) * base.At(i)
	}
	require.InEpsilon(t, want, got, 1e-5)

	q := quant.Config{Scheme: quant.NF4, Blocksize: 64}
	a, s, w = initialised(t, lora.Config{Rank: 8}, &q)
	plain := distance(t, a, s, w)
	a, s, w = initialised(t, lora.Config{Rank: 8, Init: lora.InitPiSSA}, &q)
	require.Less(t, distance(t, a, s, w), plain)
}

// Initial values do not depend on how many processors take matrices apart.
func TestInitThreads(t *testing.T) {
	values := func(n int) []byte {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
		m, store := newNet(t)
		a, err := lora.Attach(m, lora.Config{Rank: 3, Init: lora.InitPiSSA})
		require.NoError(t, err)
		require.NoError(t, a.Init(store))
		var out []byte
		for _, p := range layers.Params(m) {
			x, err := store.Get(p.Var)
			require.NoError(t, err)
			out = append(out, x.Bytes()...)
		}
		return out
	}
	require.Equal(t, values(1), values(3))
}

// An adapter that PEFT saved without converting it takes the base apart again as it is loaded, and is saved converted.
func TestLoadUnconverted(t *testing.T) {
	m, store := newNet(t)
	a, err := lora.Attach(m, lora.Config{Rank: 2, Alpha: 3, Init: lora.InitPiSSA})
	require.NoError(t, err)
	require.NoError(t, a.Init(store))
	disturb(t, a, store)
	want := forward(t, m, store)
	dir := t.TempDir()
	tensors := map[string]*tensor.Tensor{}
	for _, n := range a.Named() {
		x, err := store.Get(n.Var)
		require.NoError(t, err)
		tensors[n.Name] = x
	}
	require.NoError(t, a.Save(vfs.OS{}, dir, store, lora.SaveInfo{}))
	converted := t.TempDir()
	require.NoError(t, a.Save(vfs.OS{}, converted, store, lora.SaveInfo{}))
	weights(t, dir, tensors)
	rewrite(t, dir, map[string]any{"r": 2, "lora_alpha": 3, "init_lora_weights": "pissa"})
	for _, d := range []string{dir, converted} {
		saved, err := lora.Load(vfs.OS{}, d)
		require.NoError(t, err)
		m, store := newNet(t)
		b, err := lora.AttachSaved(m, saved, store)
		require.NoError(t, err)
		require.NoError(t, b.Init(store), "a second time changes nothing")
		require.InDeltaSlice(t, want, forward(t, m, store), 1e-5)
		again := t.TempDir()
		require.NoError(t, b.Save(vfs.OS{}, again, store, lora.SaveInfo{}))
		saved, err = lora.Load(vfs.OS{}, again)
		require.NoError(t, err)
		require.Equal(t, 4, saved.Config.Rank)
		m, store = newNet(t)
		_, err = lora.AttachSaved(m, saved, store)
		require.NoError(t, err)
		require.InDeltaSlice(t, want, forward(t, m, store), 1e-5)
	}
}
