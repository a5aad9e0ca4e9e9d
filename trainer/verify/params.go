package verify

import (
	"errors"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
)

// param is a tensor of the checkpoint inside the variable that holds it: all of it, or one expert's matrix.
type param struct {
	v     *graph.Var
	piece models.Piece
}

// add notes a parameter under its own name and under those of its pieces in files.
func (m *loaded) add(p layers.Param) {
	m.params = append(m.params, p)
	m.byName[p.Name] = param{p.Var, models.Piece{Name: p.Name, Shape: p.Type.Shape}}
	for _, piece := range m.Pieces(p) {
		m.byName[piece.Name] = param{p.Var, piece}
	}
}

// grads differentiates a loss by each variable once and returns the gradients of the variables that hold the named tensors.
func (m *loaded) grads(loss graph.Value, names []string) ([]graph.Value, error) {
	at := map[*graph.Var]int{}
	var vars []*graph.Var
	for _, name := range names {
		v := m.byName[name].v
		if _, ok := at[v]; !ok {
			at[v] = len(vars)
			vars = append(vars, v)
		}
	}
	each, err := autograd.Grad(loss, vars...)
	if err != nil {
		return nil, err
	}
	out := make([]graph.Value, len(names))
	for i, name := range names {
		out[i] = each[at[m.byName[name].v]]
	}
	return out, nil
}

// withoutGrad lists the parameters that the file has no gradient of, in the order of the model and under the names of files.
func (r *run) withoutGrad() []string {
	given := map[string]bool{}
	for _, name := range r.ref.grads("") {
		given[name] = true
	}
	var out []string
	for _, p := range r.model.params {
		if given[p.Name] {
			continue
		}
		for _, piece := range r.model.Pieces(p) {
			if !given[piece.Name] {
				out = append(out, piece.Name)
			}
		}
	}
	return append(out, r.model.frozen...)
}

const routerLogits = "router_logits"

// router is the scores of the routers of a pass: (layers, rows, tokens, experts).
func (p *pass) router() (graph.Value, error) {
	logits := p.routes.Logits
	if len(logits) == 0 {
		return graph.Value{}, errors.New("the model has no router of experts")
	}
	experts := logits[0].Dim(1)
	all := ops.Concat(0, logits...)
	return ops.Reshape(all, len(logits), p.shape.Dim(0), p.shape.Dim(1), experts), nil
}
