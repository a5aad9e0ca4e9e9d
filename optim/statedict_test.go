package optim

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestStateDictContinues saves each optimizer after three steps, loads it through a file into a new one, and compares three more
// steps with those of the first, bit for bit.
func TestStateDictContinues(t *testing.T) {
	sizes := []int{1, 257, 300, 256}
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			c := Config{Momentum: 0.9, WeightDecay: 0.1, Min8bitSize: 257, MaxUnorm: 0.5, TAlpha: 9, TBeta3: 9}
			one, two := newWorld(t, 1, name, c, sizes...), newWorld(t, 1, name, c, sizes...)
			one.train(t, 3)
			dict, err := one.group.StateDict(one.store, 0.01)
			require.NoError(t, err)
			require.NoError(t, two.group.LoadStateDict(throughFile(t, dict), two.store))
			for i, p := range one.params {
				x, err := one.store.Get(p)
				require.NoError(t, err)
				require.NoError(t, two.store.Set(two.params[i], x))
			}
			vars := func(w *world) []*graph.Var { return append(w.group.ParamSlabs(), w.group.StateVars()...) }
			one.train(t, 3)
			two.train(t, 3)
			require.Equal(t, one.bytes(t, vars(one)...), two.bytes(t, vars(two)...))
		})
	}
}

// throughFile writes a dict as a safetensors file and reads it.
func throughFile(t *testing.T, d *StateDict) *StateDict {
	var list []checkpoint.Named
	for name, x := range d.Tensors {
		list = append(list, checkpoint.Named{Name: name, Tensor: x})
	}
	path := filepath.Join(t.TempDir(), "optimizer.safetensors")
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, path, list, map[string]string{"optimizer": string(d.Document)}))
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	out := &StateDict{Tensors: map[string]*tensor.Tensor{}, Document: []byte(f.Metadata()["optimizer"])}
	for name := range d.Tensors {
		out.Tensors[name], err = f.Read(name)
		require.NoError(t, err)
	}
	return out
}

// TestGoldenBNBStateDictLayout compares keys, types and shapes with the optimizer state dicts that the library's files record.
func TestGoldenBNBStateDictLayout(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(golden.Dir(t), "bnb", "serial", "index.json"))
	require.NoError(t, err)
	var entries []map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &entries))
	ran := 0
	for _, e := range entries {
		var title string
		if e["optimizer_state_dict"] == nil || json.Unmarshal(e["optimizer_state_dict"], &title) != nil {
			continue
		}
		ran++
		var want struct {
			State       map[string]map[string]any
			ParamGroups []map[string]any `json:"param_groups"`
		}
		require.NoError(t, json.Unmarshal(e["layout"], &want))
		class, shape, ok := strings.Cut(title, ", param ")
		require.True(t, ok, title)
		var dims []int
		require.NoError(t, json.Unmarshal([]byte(shape), &dims))
		compareLayout(t, strings.ToLower(class), dims, want.State, want.ParamGroups)
	}
	t.Logf("%d state dicts", ran)
	require.Positive(t, ran)
}

func compareLayout(t *testing.T, name string, dims []int, state map[string]map[string]any, groups []map[string]any) {
	c, err := Defaults(name)
	require.NoError(t, err)
	c.Min8bitSize = 1
	opt, err := New(name, c)
	require.NoError(t, err)
	gr, err := NewGroup([]*graph.Var{graph.NewVar("p", tensor.T(tensor.F32, dims...))}, Options{Optimizer: opt})
	require.NoError(t, err)
	store := plan.NewStore(device(t, 1))
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, store.Set(gr.step, tensor.Scalar[float32](1)))
	d, err := gr.StateDict(store, DefaultLR(name))
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(d.Document, &doc))
	var wantGroups []any
	for _, g := range groups {
		wantGroups = append(wantGroups, g)
	}
	require.Equal(t, wantGroups, doc["param_groups"])
	count := 0
	for index, s := range state {
		require.Equal(t, map[string]any{"step": s["step"]}, doc["state"].(map[string]any)[index])
		for key, v := range s[hidden].(map[string]any) {
			count++
			got := d.Tensors["state."+index+"."+hidden+"."+key]
			require.NotNil(t, got, key)
			pair := v.([]any)
			var want []int
			for _, n := range pair[1].([]any) {
				want = append(want, int(n.(float64)))
			}
			require.Equal(t, want, got.Shape().Dims(), key)
			require.Equal(t, map[tensor.DType]any{tensor.U8: "torch.uint8", tensor.F32: "torch.float32"}[got.DType()], pair[0], key)
		}
	}
	require.Len(t, d.Tensors, count)
}

func TestStateDictRefused(t *testing.T) {
	make := func() (*world, *StateDict) {
		w := newWorld(t, 1, "ademamix8bit", Config{}, 300, 40)
		w.train(t, 1)
		d, err := w.group.StateDict(w.store, 0.01)
		require.NoError(t, err)
		return w, d
	}
	set := func(d *StateDict, key string, x *tensor.Tensor) { d.Tensors["state.1."+hidden+"."+key] = x }
	edit := func(d *StateDict, from, to string) {
		d.Document = []byte(strings.Replace(string(d.Document), from, to, 1))
	}
	for want, spoil := range map[string]func(d *StateDict){
		"document":                 func(d *StateDict) { d.Document = d.Document[1:] },
		"dynamic map":              func(d *StateDict) { set(d, "qmap2", tensor.New(tensor.T(tensor.F32, 256))) },
		"has no state.1":           func(d *StateDict) { set(d, "state1", nil) },
		"order differ":             func(d *StateDict) { set(d, "absmax1", tensor.New(tensor.T(tensor.F32, 3))) },
		"saved with":               func(d *StateDict) { set(d, "state2", tensor.New(tensor.T(tensor.F32, 40))) },
		"absmax2[0] is NaN":        func(d *StateDict) { d.Tensors["state.1."+hidden+".absmax2"].Set(0, math.NaN()) },
		"absmax1[1] is -1":         func(d *StateDict) { d.Tensors["state.0."+hidden+".absmax1"].Set(1, -1) },
		"steps of parameter 0":     func(d *StateDict) { edit(d, `"step":1`, `"step":2`) },
		"betas of parameter":       func(d *StateDict) { edit(d, "0.999,", "0.99,") },
		"alpha of parameter":       func(d *StateDict) { edit(d, `"alpha":5`, `"alpha":6`) },
		"name parameter 7":         func(d *StateDict) { edit(d, "[0,1]", "[0,7]") },
		"has 1 parameters":         func(d *StateDict) { edit(d, "[0,1]", "[0]") },
		"holds 3 parameters after": func(d *StateDict) { edit(d, `{"0":`, `{"9":{"step":1},"0":`) },
	} {
		w, d := make()
		before := w.bytes(t, w.group.StateVars()...)
		spoil(d)
		require.ErrorContains(t, w.group.LoadStateDict(d, w.store), want)
		require.Equal(t, before, w.bytes(t, w.group.StateVars()...))
	}
}

// TestStateDictOfSquares: averages of squares below zero are refused, whose roots every later step would take; first moments may be.
func TestStateDictOfSquares(t *testing.T) {
	for name, keys := range map[string]struct{ squares, free string }{
		"adamw": {"state2", "state1"}, "ademamix32bit": {"state2", "state1"}, "rmsprop": {"state1", ""}, "adagrad32bit": {"state1", ""},
		"lion": {"", "state1"}, "adafactor": {"exp_avg_sq", "exp_avg"},
	} {
		w := newWorld(t, 1, name, Config{Momentum: 0.5}, 300)
		w.train(t, 1)
		for key, bad := range map[string]bool{keys.squares: true, keys.free: false} {
			d, err := w.group.StateDict(w.store, 0.01)
			require.NoError(t, err)
			if key == "" {
				continue
			}
			full := w.group.sections[0].prefix(0) + key
			d.Tensors[full].Set(5, -1)
			err = w.group.LoadStateDict(d, w.store)
			if bad {
				require.ErrorContains(t, err, full+"[5] is -1", name)
			} else {
				require.NoError(t, err, name)
			}
		}
	}
}

// TestStateDictCountsGivenSteps: the dict says how many steps were made also where the caller numbers them.
func TestStateDictCountsGivenSteps(t *testing.T) {
	w := newWorld(t, 1, "adamw", Config{}, 300)
	g := graph.New("apply")
	ok := g.Input("ok", tensor.T(tensor.F32))
	one := ops.Fill(g, tensor.F32, 1)
	w.group.Apply(g, Scalars{LR: one, Step: ops.Fill(g, tensor.F32, 7), OK: ok})
	p, err := plan.Compile([]graph.Value{one}, plan.Options{Device: w.dev, Store: w.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	for i, want := range []string{`{"step":0}`, `{"step":7}`} {
		_, err = p.Run(context.Background(), plan.Feed{ok: i})
		require.NoError(t, err)
		d, err := w.group.StateDict(w.store, 1)
		require.NoError(t, err)
		require.Contains(t, string(d.Document), want)
	}
}

// TestStateDictOfDampening: it stands where bitsandbytes has it, as the second beta, so that another value is noticed.
func TestStateDictOfDampening(t *testing.T) {
	w := newWorld(t, 1, "sgd", Config{Momentum: 0.9, Dampening: 0.25}, 300)
	w.train(t, 1)
	d, err := w.group.StateDict(w.store, 1)
	require.NoError(t, err)
	require.Contains(t, string(d.Document), `"betas":[0.9,0.25]`)
	require.NoError(t, w.group.LoadStateDict(d, w.store))
	other := newWorld(t, 1, "sgd", Config{Momentum: 0.9}, 300)
	require.ErrorContains(t, other.group.LoadStateDict(d, other.store), "betas of parameter")
}
