// Package verify compares a model computed here with numbers that another implementation computed: logits, losses and gradients
// kept in a safetensors file beside the inputs they belong to. It answers one question before any training: does this program
// run this model as PyTorch does?
//
// Everything is computed in float32; weights that the folder stores quantized stay in their codes. Keys of the file:
//
//	input_ids, attention_mask, labels (B, T)       the batch, padded on the right; labels aligned with input_ids, -100 ignored
//	logits (B, T, V)                               not compared at padding
//	per_token_loss (B, T-1), loss                  entry t: cross-entropy of labels[t+1]; loss: their mean where labels count
//	grad.NAME                                      gradient of loss with respect to a parameter
//	packed_input_ids, packed_labels, packed_position_ids, packed_logits, packed_per_token_loss, packed_loss, packed_grad.NAME
//	                                               the same for rows of several documents, whose positions restart at 0
//	merged_lora_logits (B, T, V)                   logits after an adapter was merged into the weights
//	short_logits (..., n, V)                       logits of the first n tokens of row 0 alone
//	router_logits                                  of a mixture of experts
package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// Options says what to compare with what. Model, Against and Device are required.
type Options struct {
	FS      vfs.FS        // nil: the host's
	Model   string        // Hugging Face folder, llama2.c file or the folder of one
	Adapter string        // PEFT folder for merged_lora_logits; "": Model/adapter_lora_final if it exists
	Against string        // safetensors file of reference numbers
	Tol     float64       // factor on the limits; 0 = 1
	Device  device.Device // where to compute
	Launch  plan.Launching
}

// Largest absolute differences for float32 arithmetic, about ten times those between float32 and float64 on models of this kind.
const (
	logitLimit = 1e-4 // logits of any sort and per-token losses
	lossLimit  = 1e-5
	gradLimit  = 2e-5
	// int8Limit is the factor on them for weights in int8: a last bit of an activation decides which integer it becomes, and outputs
	// pass through float16.
	int8Limit = 200
)

// Exit codes that errors of this package ask for.
const (
	exitConfig = 2
	exitInput  = 3
)

// InputError is a file that cannot be used: missing, damaged, contradictory, of a model that is not supported, or holding
// nothing to compare.
type InputError struct{ Err error }

// Error returns the cause's text.
func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// ExitCode is 3, bad input file.
func (e *InputError) ExitCode() int { return exitInput }

// OptionError is an option that makes no sense.
type OptionError struct{ Reason string }

// Error returns the reason.
func (e *OptionError) Error() string { return e.Reason }

// ExitCode is 2, bad flags.
func (e *OptionError) ExitCode() int { return exitConfig }

// Run compares every key of the file. Numbers beyond their limits are no error: they are in the result, whose OK is then false.
// When the file holds nothing that could be compared the result comes together with an InputError.
func Run(ctx context.Context, o Options) (*Result, error) {
	switch {
	case o.Device == nil:
		return nil, &OptionError{"verify: Options.Device is not set; open one with device.Open"}
	case o.Model == "" || o.Against == "":
		return nil, &OptionError{"verify needs a model and a file of reference numbers: --model DIR --against FILE"}
	case !(o.Tol >= 0) || math.IsInf(o.Tol, 0):
		return nil, &OptionError{fmt.Sprintf("--tol is %v, it must be a positive factor on the limits", o.Tol)}
	}
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Tol == 0 {
		o.Tol = 1
	}
	var err error
	if o.Model, err = checkpoint.Locate(o.FS, o.Model); err != nil {
		return nil, &InputError{err}
	}
	file, err := checkpoint.OpenSafetensors(o.FS, o.Against)
	if err != nil {
		return nil, &InputError{fmt.Errorf("the file to compare with: %w", err)}
	}
	r, err := compareAll(ctx, o, file)
	return r, errors.Join(err, file.Close())
}

func compareAll(ctx context.Context, o Options, file *checkpoint.File) (*Result, error) {
	ref := newReference(o.Against, file)
	r := &Result{Tensors: []Tensor{}, ParamsWithoutGrad: []string{}}
	if len(ref.wanted) == 0 {
		r.addUnknown(ref)
		return r, &InputError{fmt.Errorf("%s: it holds no numbers to compare, such as logits, loss or grad.NAME", o.Against)}
	}
	m, err := openModel(o)
	if err != nil {
		return nil, err
	}
	run := &run{Options: o, ref: ref, model: m, found: map[string]outcome{}}
	err = errors.Join(run.all(ctx), m.close())
	if err != nil {
		return nil, err
	}
	for _, name := range ref.wanted {
		r.Tensors = append(r.Tensors, run.found[name].tensor(name))
	}
	r.addUnknown(ref)
	r.ParamsWithoutGrad = append(r.ParamsWithoutGrad, run.withoutGrad()...)
	if !r.compared() {
		return r, &InputError{fmt.Errorf("%s: nothing of it could be compared with %s", o.Against, o.Model)}
	}
	return r, nil
}

// reference is the file of numbers to compare with.
type reference struct {
	path    string
	file    *checkpoint.File
	wanted  []string // keys to compare, in file order
	unknown []string
}

// inputs are the keys that numbers are computed from.
var inputs = map[string]bool{"input_ids": true, "attention_mask": true, "labels": true,
	"packed_input_ids": true, "packed_labels": true, "packed_position_ids": true}

// outputs are the keys to compare, gradients aside.
var outputs = map[string]bool{"logits": true, "loss": true, "per_token_loss": true,
	"packed_logits": true, "packed_loss": true, "packed_per_token_loss": true,
	"merged_lora_logits": true, "short_logits": true, "router_logits": true}

const (
	gradPrefix   = "grad."
	packedPrefix = "packed_"
)

func newReference(path string, file *checkpoint.File) *reference {
	r := &reference{path: path, file: file}
	for _, name := range file.Names() {
		switch {
		case inputs[name]:
		case outputs[name] || strings.HasPrefix(strings.TrimPrefix(name, packedPrefix), gradPrefix):
			r.wanted = append(r.wanted, name)
		default:
			r.unknown = append(r.unknown, name)
		}
	}
	return r
}

// has reports whether a key is in the file.
func (r *reference) has(name string) bool {
	_, ok := r.file.Type(name)
	return ok
}

// grads lists the parameters that the file has gradients of.
func (r *reference) grads(prefix string) []string {
	var out []string
	for _, name := range r.wanted {
		if param, ok := strings.CutPrefix(name, prefix+gradPrefix); ok {
			out = append(out, param)
		}
	}
	return out
}
