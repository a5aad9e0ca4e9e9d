package models_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/testdevice"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const ignored = -100

// fixture is a model on the CPU.
type fixture struct {
	t     *testing.T
	dir   string
	cfg   models.Config
	model *models.Model
	store *plan.Store
	dev   device.Device

	session *plan.Session // over store
}

// openModel builds the model of a folder with the given configuration; a family that is not supported is skipped with the
// refusal's text.
func openModel(t *testing.T, dir, config string) *fixture {
	t.Helper()
	return openModelIn(t, dir, config, layers.Options{})
}

func openModelIn(t *testing.T, dir, config string, o layers.Options) *fixture {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, config))
	require.NoError(t, err)
	cfg, err := models.ParseConfig(raw)
	if err != nil {
		t.Skipf("refused: %v", err)
	}
	weights, err := checkpoint.OpenDir(vfs.OS{}, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, weights.Close()) })
	return load(t, dir, cfg, weights, o)
}

func load(t *testing.T, dir string, cfg models.Config, weights checkpoint.Reader, o layers.Options) *fixture {
	t.Helper()
	dev := testdevice.Open(t)
	f := &fixture{t: t, dir: dir, cfg: cfg, dev: dev, store: plan.NewStore(dev)}
	f.session = plan.NewSession(f.store)
	t.Cleanup(func() { require.NoError(t, f.session.Close()) })
	if weights != nil {
		o.Weights = weights
	}
	src := layers.NewSource(o)
	var err error
	f.model, err = models.New(cfg, src)
	require.NoError(t, err)
	require.NoError(t, src.Load(f.store))
	if weights != nil {
		require.Empty(t, src.Unused(weights.Names()), "tensors of the file that the model does not use")
	}
	return f
}

// batch is rows of tokens with what belongs to them, as a model takes them.
type batch struct{ tokens, pos, doc, targets *tensor.Tensor }

// newBatch shifts labels, which are aligned with ids, to targets. Without positions every row is one document.
func newBatch(t *testing.T, ids, labels, positions *tensor.Tensor) batch {
	t.Helper()
	b, n := ids.Shape().Dim(0), ids.Shape().Dim(1)
	i32 := func() *tensor.Tensor { return tensor.New(tensor.T(tensor.I32, b, n)) }
	out := batch{i32(), i32(), i32(), i32()}
	for r := range b {
		start := 0
		for c := range n {
			i := r*n + c
			p := float64(c)
			if positions != nil {
				p = positions.At(i)
			}
			if p == 0 {
				start = c
			}
			out.tokens.Set(i, ids.At(i))
			out.pos.Set(i, p)
			out.doc.Set(i, float64(start))
			target := float64(ignored)
			last := c == n-1 || (positions != nil && positions.At(i+1) == 0)
			if labels != nil && !last {
				target = labels.At(i + 1)
			}
			out.targets.Set(i, target)
		}
	}
	return out
}

// pass is a graph of the model over one batch.
type pass struct {
	f       *fixture
	g       *graph.Graph
	in      models.Inputs
	targets graph.Value
	hidden  graph.Value
	packed  bool
}

func (f *fixture) pass(rows, tokens int, packed, recompute bool) *pass {
	return f.passOf(rows, tokens, packed, models.Inputs{Checkpoint: models.AllBlocks(recompute)})
}

// passOf fills in the tokens of a call.
func (f *fixture) passOf(rows, tokens int, packed bool, in models.Inputs) *pass {
	g := graph.New("test")
	t := tensor.T(tensor.I32, rows, tokens)
	p := &pass{f: f, g: g, packed: packed, targets: g.Input("targets", t), in: in}
	p.in.Tokens, p.in.Pos = g.Input("tokens", t), g.Input("pos", t)
	if packed {
		p.in.DocStart = g.Input("doc", t)
	}
	p.hidden = f.model.Hidden(p.in)
	return p
}

func (p *pass) feed(b batch) plan.Feed {
	f := plan.Feed{p.in.Tokens: b.tokens, p.in.Pos: b.pos, p.targets: b.targets}
	if p.packed {
		f[p.in.DocStart] = b.doc
	}
	return f
}

func (p *pass) logits() graph.Value    { return p.f.model.Logits(p.hidden) }
func (p *pass) tokenLoss() graph.Value { return p.f.model.TokenLoss(p.hidden, p.targets) }

// run compiles the values over the fixture's weights and computes them once.
func (p *pass) run(b batch, vals ...graph.Value) []*tensor.Tensor {
	t := p.f.t
	t.Helper()
	feed := p.feed(b)
	for _, in := range []graph.Value{p.in.Tokens, p.in.Pos, p.targets, p.in.DocStart} {
		if !in.Absent() && !used(p.g, in, vals) {
			delete(feed, in)
		}
	}
	c, err := plan.Compile(vals, plan.Options{Device: p.f.dev, Session: p.f.session})
	require.NoError(t, err)
	res, err := c.Run(context.Background(), feed)
	require.NoError(t, err)
	var out []*tensor.Tensor
	for _, v := range vals {
		out = append(out, res.Tensor(v))
	}
	require.NoError(t, c.Close())
	return out
}

func used(g *graph.Graph, in graph.Value, outs []graph.Value) bool {
	reach := g.Reachable(outs)
	for _, n := range g.Nodes() {
		for _, o := range n.Outputs() {
			if o == in {
				return reach[n.ID]
			}
		}
	}
	return false
}

// grads returns the loss and the gradient of every variable, by the names that files have.
func (p *pass) grads(b batch, vars []*graph.Var) (float64, map[string]*tensor.Tensor) {
	t := p.f.t
	t.Helper()
	loss := ops.MeanLoss(p.tokenLoss(), p.targets)
	gs, err := autograd.Grad(loss, vars...)
	require.NoError(t, err)
	out := p.run(b, append([]graph.Value{loss}, gs...)...)
	byName := map[string]*tensor.Tensor{}
	for i, v := range vars {
		for _, piece := range p.f.model.Pieces(layers.Param{Name: v.Name, Type: v.Type}) {
			byName[piece.Name] = piece.Cut(out[i+1])
		}
	}
	return out[0].At(0), byName
}

// families calls f in a subtest for each folder of reference models with a golden file, and says how many there were.
func families(t *testing.T, f func(t *testing.T, dir string, g *checkpoint.File)) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "golden.safetensors"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	ran := 0
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			g, err := checkpoint.OpenSafetensors(vfs.OS{}, path)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, g.Close()) })
			f(t, dir, g)
			ran++
		})
	}
	t.Logf("%d of %d families ran", ran, len(paths))
}

func read(t *testing.T, g *checkpoint.File, name string) *tensor.Tensor {
	t.Helper()
	x, err := g.Read(name)
	require.NoError(t, err)
	return x
}

func goldenJSON(t *testing.T, dir string, v any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, v))
}

// near compares two tensors of one shape where keep says so (nil: everywhere) and returns the largest difference.
func near(t *testing.T, what string, got, want *tensor.Tensor, limit float64, keep func(i int) bool) float64 {
	t.Helper()
	require.Equal(t, want.Type().Size(), got.Type().Size(), what)
	worst := 0.0
	for i := range want.Type().Size() {
		if keep != nil && !keep(i) {
			continue
		}
		d := math.Abs(got.At(i) - want.At(i))
		require.LessOrEqual(t, d, limit, "%s[%d]: %v, want %v", what, i, got.At(i), want.At(i))
		worst = max(worst, d)
	}
	return worst
}
