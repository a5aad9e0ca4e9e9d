// Package calibrate quantizes the weights of a model with the help of data: it runs the model on rows of tokens, gathers what each
// linear layer is given, and chooses ranges, scales or codes by it (package quant/calib does the arithmetic).
//
// Inputs are gathered a few layers at a time, in as many passes over the data as the memory budget asks for, and reduced at once: what
// stays of a layer is a Hessian, statistics of its channels, and a bounded sample of its rows.
package calibrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/quant/calib"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Method says how weights are quantized.
type Method string

// The methods. Those from MinMax to Entropy observe the range of each layer's input, for static quantization of activations
// (Layer.Activation), and quantize weights in ranges found in the same way, block by block.
const (
	RTN           Method = "rtn"         // round to nearest; data only measures
	MinMax        Method = "minmax"      // the extremes
	MovingAverage Method = "average"     // moving averages of the batches' extremes; weights as in MinMax
	Percentile    Method = "percentile"  // all but the outermost values (Options.Percent)
	MSE           Method = "mse"         // least squared error
	Entropy       Method = "entropy"     // least Kullback-Leibler divergence; weights only in blocks with enough values, else as in MinMax
	SmoothQuant   Method = "smoothquant" // scales between activations and weights (Xiao et al. 2023)
	AWQ           Method = "awq"         // scales that protect salient channels, and clipping (Lin et al. 2023)
	GPTQ          Method = "gptq"        // second-order error feedback (Frantar et al. 2023)
)

// Methods lists the methods.
func Methods() []Method {
	return []Method{RTN, MinMax, MovingAverage, Percentile, MSE, Entropy, SmoothQuant, AWQ, GPTQ}
}

// ParseMethod is the inverse of conversion to string; "" is RTN.
func ParseMethod(name string) (Method, error) {
	if name == "" {
		return RTN, nil
	}
	if m := Method(name); slices.Contains(Methods(), m) {
		return m, nil
	}
	var names []string
	for _, m := range Methods() {
		names = append(names, string(m))
	}
	return "", fmt.Errorf("calibrate: unknown method %q: use %s", name, strings.Join(names, ", "))
}

// Options configures a calibration. Model, Store and Format are required, Rows by every method but RTN.
type Options struct {
	Model *models.Model
	// Store holds the model's weights, unquantized. With Sequential it holds the quantized ones afterwards, else it is left alone.
	Store *plan.Store
	// Launch is how plans reach the device.
	Launch plan.Launching
	// Rows are token ids i32 (1, T) or (T), 1 to the model's context long.
	Rows   []*tensor.Tensor
	Method Method
	Format quant.Format
	// Keep says which weights, by name such as "model.layers.0.mlp.up_proj.weight", stay as they are. nil: the output head's.
	Keep func(name string) bool

	Percent    float64 // of Percentile; 0 = 99.9
	Alpha      float64 // migration strength of SmoothQuant; 0 = 0.5, negative = searched for each group of layers
	NoClip     bool    // scales of GPTQ and AWQ cover the extremes of each block; else extremes are cut off where that lessens the error
	NoActOrder bool    // GPTQ in the order of the columns, with scales fitted on the way
	Sequential bool    // GPTQ: calibrate each layer on what the quantized layers before it give; a pass over the data for each input
	KeepZeros  bool    // GPTQ leaves weights that are exactly 0, as pruning made them, at 0; the other methods do so anyway
	Damping    float64 // of GPTQ; 0 = calib.DefaultDamping

	SampleRows int   // rows of a layer's input that searches and measured errors see; 0 = 512
	Memory     int64 // bytes that gathered Hessians, samples and a row's inputs may take at once; 0 = 1 GiB. A single layer may take more
	Parallel   calib.Parallel
	// Progress is called before each weight is quantized; nil: nobody is told.
	Progress func(done, total int, name string)
}

// Result is a quantized model.
type Result struct {
	States map[string]*quant.State // weights by name
	// Dense are parameters that the method changed and that stay unquantized: norms and biases that took over scales.
	Dense  map[string]*tensor.Tensor
	Layers []Layer // in the order of the model
}

// Layer reports on one weight.
type Layer struct {
	Name     string
	Bits     float64 // stored bits per weight, scales included
	RelError float64 // ‖W-Q‖/‖W‖; scales of SmoothQuant and AWQ are taken out of Q
	MaxAbs   float64 // largest |w-q|
	Cosine   float64 // between W and Q
	// OutputError is ‖X·(W-Q)ᵀ‖/‖X·Wᵀ‖ on a sample of the layer's inputs, Nearest the same for round-to-nearest in the same format; both
	// are 0 without rows.
	OutputError float64
	Nearest     float64
	Ratio       float64      // exponent of the scales of SmoothQuant or AWQ; 0 = not scaled
	Activation  calib.Range  // of the layer's input, by an observing method
	Params      calib.Params // of an 8-bit asymmetric grid over Activation
	Note        string       // what was unusual: a singular Hessian, a layer that no scale can be folded around

	columns []float32 // what the weight's columns were multiplied by before it was quantized; nil = 1
	rows    []float32 // what its rows were divided by; nil = 1
	cols    int
}

// Unscale takes the scales of SmoothQuant and AWQ out of elements from on of the dequantized weight, so that they compare with the weight
// that the model came with.
func (l *Layer) Unscale(x []float32, from int) {
	if l.columns == nil && l.rows == nil {
		return
	}
	for i := range x {
		if l.columns != nil {
			x[i] *= 1 / l.columns[(from+i)%l.cols]
		}
		if l.rows != nil {
			x[i] *= l.rows[(from+i)/l.cols]
		}
	}
}

// Run calibrates and quantizes every linear layer of the model that is not kept.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := &run{Options: o, result: &Result{States: map[string]*quant.State{}, Dense: map[string]*tensor.Tensor{}}}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if len(o.Rows) == 0 {
		for _, l := range r.linears {
			if err := r.finish(ctx, l); err != nil {
				return nil, fmt.Errorf("calibrate: %s: %w", l.name, err)
			}
		}
		return r.result, nil
	}
	if err := r.checkWeights(); err != nil {
		return nil, err
	}
	stages, err := r.stages()
	if err != nil {
		return nil, err
	}
	for _, part := range r.parts(stages) {
		if err := r.gather(ctx, part); err != nil {
			return nil, err
		}
		for _, s := range part {
			if err := r.quantize(ctx, s); err != nil {
				return nil, fmt.Errorf("calibrate: %s: %w", s.names(), err)
			}
		}
	}
	for _, l := range r.linears { // the head of a fold whose other side is kept
		if l.pending.Data != nil {
			if err := r.finish(ctx, l); err != nil {
				return nil, fmt.Errorf("calibrate: %s: %w", l.name, err)
			}
		}
	}
	slices.SortFunc(r.result.Layers, func(a, b Layer) int { return r.order[a.Name] - r.order[b.Name] })
	return r.result, nil
}

// run is a calibration under way.
type run struct {
	Options
	linears []*linear
	order   map[string]int
	folds   map[string]*fold // by the path of a consumer
	longest int              // length of the longest row, padded
	done    int
	result  *Result
}

// linear is a layer to be quantized.
type linear struct {
	path, name string
	layer      *layers.Linear
	heldFor    *fold        // the layer makes the input of this fold's consumers, whose scales it will take over
	pending    calib.Matrix // scaled and clipped, waiting for heldFor
	report     Layer
	stage      *stage // its input; nil without rows
}

func (r *run) prepare() error {
	if r.Model == nil || r.Store == nil || r.Format == nil {
		return errors.New("calibrate: Options.Model, Store and Format must be set")
	}
	var err error
	if r.Method, err = ParseMethod(string(r.Method)); err != nil {
		return err
	}
	switch {
	case r.Method != RTN && len(r.Rows) == 0:
		return fmt.Errorf("calibrate: %s needs rows of tokens to run the model on", r.Method)
	case r.Percent < 0 || r.Percent > 100:
		return fmt.Errorf("calibrate: percentile %v: must be above 0 and at most 100 (0 = 99.9)", r.Percent)
	case r.Alpha > 1 || r.Alpha != r.Alpha:
		return fmt.Errorf("calibrate: migration strength %v: must be at most 1 (0 = 0.5, negative = search)", r.Alpha)
	case r.SampleRows < 0 || r.Memory < 0:
		return fmt.Errorf("calibrate: %d sample rows in %d bytes: must not be negative", r.SampleRows, r.Memory)
	case r.Sequential && r.Method != GPTQ && r.Method != RTN:
		return fmt.Errorf("calibrate: sequential calibration is for gptq, not for %s", r.Method)
	}
	if r.Percent == 0 {
		r.Percent = 99.9
	}
	if r.SampleRows == 0 {
		r.SampleRows = 512
	}
	if r.Memory == 0 {
		r.Memory = 1 << 30
	}
	if r.Keep == nil {
		r.Keep = func(name string) bool { return name == "lm_head.weight" }
	}
	if err := r.checkRows(); err != nil {
		return err
	}
	return r.collect()
}

// collect lists the layers to quantize. What is no plain linear layer (quantized already, adapted) is refused unless it is kept.
func (r *run) collect() error {
	var err error
	layers.Modules(r.Model, func(path string, p layers.Projection, _ func(layers.Projection)) {
		name := path + ".weight"
		if err != nil || r.Keep(name) {
			return
		}
		l, ok := p.(*layers.Linear)
		if !ok {
			err = fmt.Errorf("calibrate: %s is a %T: only unquantized linear layers can be calibrated; merge adapters first, or keep it", path, p)
			return
		}
		r.linears = append(r.linears, &linear{path: path, name: name, layer: l})
	})
	if err == nil && len(r.linears) == 0 {
		err = errors.New("calibrate: every linear layer of the model is kept: there is nothing to quantize")
	}
	r.order = map[string]int{}
	for i, l := range r.linears {
		r.order[l.name] = i
	}
	r.findFolds()
	return err
}

func (r *run) checkRows() error {
	c := r.Model.Config()
	for i, t := range r.Rows {
		if t == nil || t.DType() != tensor.I32 || t.Type().Size() < 1 || t.Type().Size() != t.Shape().Dim(-1) {
			return fmt.Errorf("calibrate: row %d is not a row of i32 token ids", i)
		}
		if t.Type().Size() > c.MaxPositions {
			return fmt.Errorf("calibrate: row %d has %d tokens, the model's context is %d: cut it", i, t.Type().Size(), c.MaxPositions)
		}
		for j, id := range tensor.Data[int32](t) {
			if id < 0 || int(id) >= c.Vocab {
				return fmt.Errorf("calibrate: row %d: token %d has id %d, the vocabulary has %d", i, j, id, c.Vocab)
			}
		}
		r.longest = max(r.longest, r.padded(t))
	}
	return nil
}

// checkWeights refuses a broken weight by its name, before what it makes of activations is noticed in another layer.
func (r *run) checkWeights() error {
	for _, l := range r.linears {
		if _, err := r.weight(l); err != nil {
			return fmt.Errorf("calibrate: %s: %w", l.name, err)
		}
	}
	return nil
}

// weight reads a layer's weight.
func (r *run) weight(l *linear) (calib.Matrix, error) {
	t, err := r.Store.Get(l.layer.Weight)
	if err != nil {
		return calib.Matrix{}, err
	}
	return calib.FromTensor(t)
}
