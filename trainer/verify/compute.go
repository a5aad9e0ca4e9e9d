package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// defaultAdapter is the folder inside a model's that holds the adapter of merged_lora_logits.
const defaultAdapter = "adapter_lora_final"

// loaded is a model with its weights in float32 on the device.
type loaded struct {
	*models.Model
	store   *plan.Store
	session *plan.Session
	params  []layers.Param   // that are not frozen
	byName  map[string]param // by the names that files give them
	frozen  []string         // quantized parameters
	scheme  string           // how linear weights are stored; "" in full precision
}

func openModel(o Options) (*loaded, error) {
	weights, cfg, err := models.OpenWeights(o.FS, o.Model)
	if err != nil {
		return nil, &InputError{fmt.Errorf("model %s: %w; give a Hugging Face directory, or a llama2.c file or its folder", o.Model, err)}
	}
	m := &loaded{store: plan.NewStore(o.Device), byName: map[string]param{}}
	m.session = plan.NewSession(m.store)
	m.session.SetLaunching(o.Launch)
	src := layers.NewSource(layers.Options{Weights: weights, Policy: layers.Policy{Param: tensor.F32, Compute: tensor.F32}})
	m.Model, err = models.New(cfg, src)
	if err != nil {
		return nil, errors.Join(&InputError{fmt.Errorf("%s: %w", o.Model, err)}, weights.Close(), m.close())
	}
	if err := errors.Join(src.Load(m.store), weights.Close()); err != nil {
		if errors.Is(err, checkpoint.ErrFormat) {
			err = &InputError{err}
		}
		return nil, errors.Join(err, m.close())
	}
	layers.SetTrainable(m.Model, true)
	for _, p := range layers.Params(m.Model) {
		if p.Var == nil { // quantized: frozen, without a gradient
			for _, piece := range m.Pieces(p) {
				m.frozen = append(m.frozen, piece.Name)
			}
			continue
		}
		m.add(p)
	}
	if z := cfg.Quantization; z != nil {
		m.scheme = z.Scheme
	}
	return m, nil
}

func (m *loaded) close() error { return m.session.Close() }

// run computes what the reference holds.
type run struct {
	Options
	ref   *reference
	model *loaded
	found map[string]outcome
}

// all goes through the batches. The adapter comes last: merging it changes the weights.
func (r *run) all(ctx context.Context) error {
	if err := r.batch(ctx, packedPrefix); err != nil {
		return err
	}
	if err := r.batch(ctx, ""); err != nil {
		return err
	}
	if err := r.short(ctx); err != nil {
		return err
	}
	return r.merged(ctx)
}

// refuse fails a key that the model cannot supply.
func (r *run) refuse(name, reason string) { r.found[name] = outcome{status: Failed, reason: reason} }

// batch compares logits, losses and gradients of the batch under a prefix.
func (r *run) batch(ctx context.Context, prefix string) error {
	names := map[string]bool{}
	for _, kind := range []string{"logits", "per_token_loss", "loss", routerLogits} {
		if r.ref.has(prefix + kind) {
			names[kind] = true
		}
	}
	var params []string
	for _, param := range r.ref.grads(prefix) {
		if r.model.byName[param].v == nil {
			reason := "the model has no parameter of this name"
			if slices.Contains(r.model.frozen, param) {
				reason = "the parameter is stored in " + r.model.scheme + " and frozen: it has no gradient"
			}
			r.refuse(prefix+gradPrefix+param, reason)
			continue
		}
		params = append(params, param)
	}
	if len(names) == 0 && len(params) == 0 {
		return nil
	}
	b, err := r.ref.batch(prefix, r.model.Config().Vocab)
	if err != nil {
		return err
	}
	if b.targets == nil && (names["loss"] || names["per_token_loss"] || len(params) > 0) {
		return r.ref.bad(prefix+"labels", "it is missing, and losses or gradients of the file belong to it")
	}
	return r.pass(ctx, prefix, b, names, params)
}

// pass builds and runs one graph for a batch.
func (r *run) pass(ctx context.Context, prefix string, b *batch, names map[string]bool, params []string) error {
	p := r.newPass(b)
	var keys []string
	var vals []graph.Value
	want := func(key string, v graph.Value) { keys, vals = append(keys, key), append(vals, v) }
	if names["logits"] {
		want("logits", r.model.Logits(p.hidden))
	}
	if names[routerLogits] {
		if v, err := p.router(); err != nil {
			r.refuse(prefix+routerLogits, err.Error())
		} else {
			want(routerLogits, v)
		}
	}
	if names["per_token_loss"] || names["loss"] || len(params) > 0 {
		each := r.model.TokenLoss(p.hidden, p.targets)
		loss := ops.MeanLoss(each, p.targets)
		if names["per_token_loss"] {
			want("per_token_loss", each)
		}
		if names["loss"] {
			want("loss", loss)
		}
		grads, err := r.model.grads(loss, params)
		if err != nil {
			return err
		}
		for i, name := range params {
			want(gradPrefix+name, grads[i])
		}
	}
	out, err := r.eval(ctx, p, vals)
	if err != nil {
		return err
	}
	for i, key := range keys {
		got := out[i]
		if name, ok := strings.CutPrefix(key, gradPrefix); ok {
			got = r.model.byName[name].piece.Cut(got)
		}
		if err := r.compare(prefix+key, key, b, got); err != nil {
			return err
		}
	}
	return nil
}

// pass is a graph of the model over one batch.
type pass struct {
	g       *graph.Graph
	targets graph.Value
	hidden  graph.Value
	routes  layers.Routes
	shape   tensor.Shape // (rows, tokens)
}

// newPass embeds the batch as constants: a graph is run once.
func (r *run) newPass(b *batch) *pass {
	g := graph.New("verify")
	p := &pass{g: g, shape: b.ids.Shape()}
	in := models.Inputs{Tokens: g.Const(b.ids), Pos: g.Const(b.pos), DocStart: g.Const(b.doc), Routes: &p.routes}
	p.hidden = r.model.Hidden(in)
	if b.targets != nil {
		p.targets = g.Const(b.targets)
	}
	return p
}

func (r *run) eval(ctx context.Context, p *pass, vals []graph.Value) (out []*tensor.Tensor, err error) {
	c, err := plan.Compile(vals, plan.Options{Context: ctx, Device: r.Device, Session: r.model.session})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	res, err := c.Run(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, v := range vals {
		out = append(out, res.Tensor(v))
	}
	return out, nil
}

// logits compares the logits of a batch with a key.
func (r *run) logits(ctx context.Context, key string, b *batch) error {
	p := r.newPass(b)
	out, err := r.eval(ctx, p, []graph.Value{r.model.Logits(p.hidden)})
	if err != nil {
		return err
	}
	return r.compare(key, "logits", b, out[0])
}

// short compares the logits of the beginning of row 0, run alone.
func (r *run) short(ctx context.Context) error {
	const key = "short_logits"
	typ, ok := r.ref.file.Type(key)
	if !ok {
		return nil
	}
	b, err := r.ref.batch("", r.model.Config().Vocab)
	if err != nil {
		return err
	}
	if typ.Rank() < 2 || typ.Size() == 0 || typ.Dim(-2) > b.tokens {
		r.refuse(key, fmt.Sprintf("it is %v; logits (1, n, vocabulary) of at most %d tokens are needed", typ, b.tokens))
		return nil
	}
	if b, err = b.short(typ.Dim(-2)); err != nil {
		return err
	}
	return r.logits(ctx, key, b)
}

// merged compares logits after merging an adapter.
func (r *run) merged(ctx context.Context) error {
	const key = "merged_lora_logits"
	if !r.ref.has(key) {
		return nil
	}
	dir := r.Adapter
	if dir == "" {
		dir = filepath.Join(r.Model, defaultAdapter)
		if _, err := r.FS.Stat(dir); err != nil {
			if !errors.Is(err, fs.ErrNotExist) && isDir(r, r.Model) {
				return &InputError{err}
			}
			r.found[key] = outcome{status: Skipped, reason: "no adapter: neither --adapter is given nor " + dir + " exists"}
			return nil
		}
	}
	b, err := r.ref.batch("", r.model.Config().Vocab)
	if err != nil {
		return err
	}
	saved, err := lora.Load(r.FS, dir)
	if err != nil {
		return &InputError{err}
	}
	adapter, err := lora.AttachSaved(r.model.Model, saved, r.model.store)
	if err != nil {
		return &InputError{err}
	}
	if err := adapter.Merge(r.model.store); err != nil {
		return err
	}
	return r.logits(ctx, key, b)
}

func isDir(r *run, path string) bool {
	info, err := r.FS.Stat(path)
	return err == nil && info.IsDir()
}
