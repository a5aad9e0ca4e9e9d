package calibrate

import (
	"fmt"
	"math"
	"strconv"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant/calib"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// fold is a place where scales can be taken out of an activation: the consumers' columns are multiplied, and what makes the activation,
// a norm or a linear layer with nothing but elementwise products behind it, is divided. The model's function stays.
type fold struct {
	consumers []*linear
	norm      *graph.Var
	producer  *linear
}

// findFolds lists the folds of layers like Llama's: norm to q, k and v; norm to gate and up; up to down, since silu(gate)·up is linear in up; v to o
// where every query head has its own value head, since attention mixes positions, not features.
func (r *run) findFolds() {
	r.folds = map[string]*fold{}
	if r.Method != SmoothQuant && r.Method != AWQ {
		return
	}
	byPath := map[string]*linear{}
	for _, l := range r.linears {
		byPath[l.path] = l
	}
	c := r.Model.Config()
	for i, layer := range r.Model.Body.Stack() {
		b, ok := layer.(*models.Block)
		if !ok {
			continue // of a family whose folds are not known
		}
		at := "model.layers." + strconv.Itoa(i)
		attn, mlp := at+".self_attn.", at+".mlp."
		r.fold(byPath, b.Norm1, "", attn+"q_proj", attn+"k_proj", attn+"v_proj")
		r.fold(byPath, b.Norm2, "", mlp+"gate_proj", mlp+"up_proj")
		r.fold(byPath, nil, mlp+"up_proj", mlp+"down_proj")
		if c.KVHeads == c.Heads {
			r.fold(byPath, nil, attn+"v_proj", attn+"o_proj")
		}
	}
}

// fold adds a fold if all of its consumers, and its producer, are calibrated.
func (r *run) fold(byPath map[string]*linear, norm *layers.RMSNorm, producer string, consumers ...string) {
	f := &fold{}
	if norm != nil {
		f.norm = norm.Weight
	} else if f.producer = byPath[producer]; f.producer == nil {
		return
	}
	for _, path := range consumers {
		l := byPath[path]
		if l == nil {
			return
		}
		f.consumers = append(f.consumers, l)
	}
	if f.producer != nil {
		f.producer.heldFor = f
	}
	for _, path := range consumers {
		r.folds[path] = f
	}
}

// representable changes factors so that a norm's scale divided by them is a number of its own type: what was to be taken over would be
// rounded otherwise, by 0.4% in bf16. A scale that would overflow or vanish keeps its value, and its channel the factor 1.
func (r *run) representable(norm *graph.Var, s []float32) error {
	t, err := r.dense(norm)
	if err != nil {
		return err
	}
	rounded := tensor.New(norm.Type)
	for j, v := range t.Float32s() {
		rounded.Set(j, float64(v/s[j]))
		if d := float32(rounded.At(j)); v != 0 {
			if s[j] = v / d; d == 0 || s[j] == 0 || s[j]-s[j] != 0 {
				s[j] = 1
			}
		}
	}
	return nil
}

// dense is a parameter that stays unquantized, as earlier folds left it.
func (r *run) dense(v *graph.Var) (*tensor.Tensor, error) {
	if t, ok := r.result.Dense[v.Name]; ok {
		return t, nil
	}
	return r.Store.Get(v)
}

// divide takes factors out of what makes the activation.
func (r *run) divide(f *fold, s []float32) error {
	if f.norm != nil {
		return r.divideVar(f.norm, s)
	}
	f.producer.report.rows = s
	if err := calib.DivideOutputs(f.producer.pending, s); err != nil {
		return err
	}
	if b := f.producer.layer.Bias; b != nil {
		return r.divideVar(b, s)
	}
	return nil
}

// divideVar divides a parameter that stays unquantized.
func (r *run) divideVar(v *graph.Var, s []float32) error {
	t, err := r.dense(v)
	if err != nil {
		return err
	}
	values := t.Float32s()
	if err := calib.DivideOutputs(calib.Matrix{Rows: len(values), Cols: 1, Data: values}, s); err != nil {
		return err
	}
	out := tensor.New(v.Type)
	for i, x := range values {
		if out.Set(i, float64(x)); math.IsInf(out.At(i), 0) || math.IsNaN(out.At(i)) {
			return fmt.Errorf("element %d of %s becomes %v, which %v does not hold: use another method, or keep the layer", i, v.Name, x, v.Type.DType)
		}
	}
	r.result.Dense[v.Name] = out
	return nil
}
