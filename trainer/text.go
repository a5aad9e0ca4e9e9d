package trainer

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// roomForBucket lets a prompt that is padded to a power of two still fit the cache.
const roomForBucket = 8

// textModel is a model opened for generation.
type textModel struct {
	dev     device.Device
	session *plan.Session
	model   *Model

	adapters []*lora.Adapter // combinations last
	active   *lora.Adapter   // the one in use, nil for none
}

func openText(o GenerateOptions) (s *textModel, err error) {
	s = &textModel{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	adapters, err := o.adapters()
	if err != nil {
		return s, err
	}
	if s.dev, err = o.Execution.Open(o.Device); err != nil {
		return s, err
	}
	s.session = o.Execution.Session(plan.NewStore(s.dev))
	cfg := config.Config{Model: o.Model, Adapter: config.Adapter{Type: "lora"}, Train: config.Train{DType: o.DType},
		Quantize: config.Quantize{Scheme: o.Scheme, Double: true}}
	policy, err := policyOf(cfg, s.dev.Info())
	if err != nil {
		return s, err
	}
	if o.Scheme == "none" {
		cfg.Quantize.Scheme = "" // a quantized directory is used as it is
	}
	mo := ModelOptions{Policy: policy, Quantize: cfg.Quantize}
	if mo.Tables, err = o.tables(policy); err != nil {
		return s, err
	}
	if len(adapters) > 0 {
		mo.Beside = adapters[0].Dir
	}
	if s.model, err = OpenModel(o.Model, mo); err != nil {
		return s, err
	}
	if s.model.Tokenizer == nil {
		return s, withCode(config.ExitInput, fmt.Errorf("model %s has no tokenizer beside it (tokenizer.json or tok*.bin)", o.Model))
	}
	if err := s.attach(adapters); err != nil {
		return s, err
	}
	if err := s.model.Source.Load(s.session.Store()); err != nil {
		if errors.Is(err, layers.ErrRange) {
			err = fmt.Errorf("%w: --tables stored or --tables bf16", err)
		}
		return s, withCode(config.ExitInput, fmt.Errorf("model %s: %w", o.Model, err))
	}
	for _, a := range s.adapters {
		if err := a.Init(s.session.Store()); err != nil {
			return s, err
		}
	}
	return s, s.mix(o.Mixes)
}

// tables is how the table of tokens and the head are stored. Who has the layers rounded to 4 or 8 bits does not miss what 16 bits leave out;
// where activations have 16 bits, products round tables to them in any case.
func (o *GenerateOptions) tables(p layers.Policy) (tensor.DType, error) {
	switch o.Tables {
	case "", "auto":
		switch {
		case o.Scheme == "" || o.Scheme == "none":
			return tensor.Invalid, nil
		case p.ComputeType() == tensor.BF16:
			return tensor.BF16, nil
		}
		return tensor.F16, nil
	case "stored":
		return tensor.Invalid, nil
	case "f16":
		return tensor.F16, nil
	case "bf16":
		return tensor.BF16, nil
	}
	return tensor.Invalid, badConfig("tables", "is %q; auto, stored, f16 and bf16 are supported", o.Tables)
}

// prompt turns text into ids: with the special tokens that the tokenizer adds, or BOS alone for an empty text.
func (s *textModel) prompt(text string) ([]int32, error) {
	if text == "" {
		bos, ok := s.model.BOS()
		if !ok {
			return nil, badConfig("prompt", "the model names no BOS token to start from; give a prompt")
		}
		return []int32{bos}, nil
	}
	ids, err := s.model.Tokenizer.Encode(text)
	if err != nil {
		return nil, withCode(config.ExitInput, fmt.Errorf("prompt: %w", err))
	}
	return ids, nil
}

func (s *textModel) close() error {
	var errs []error
	if s.session != nil {
		errs = append(errs, s.session.Close())
	}
	if s.model != nil {
		errs = append(errs, s.model.Close())
	}
	if s.dev != nil {
		errs = append(errs, s.dev.Close())
	}
	return errors.Join(errs...)
}

// Tokens turns text into token ids, without those that the tokenizer adds around it, and tells whether it begins texts with BOS.
func (s *textModel) Tokens(text string) (ids []int32, bos bool, err error) {
	ids, err = s.model.Tokenizer.Encode(text)
	if err != nil {
		return nil, false, err
	}
	if id, ok := s.model.BOS(); ok && len(ids) > 0 && ids[0] == id {
		ids, bos = ids[1:], true
	}
	return ids, bos, nil
}

// PromptTokens are the ids of a prompt as Continue takes it.
func (s *textModel) PromptTokens(text string) ([]int32, error) { return s.prompt(text) }

// BOS is the token that begins a text, if the model has one.
func (s *textModel) BOS() (int32, bool) { return s.model.BOS() }

// Context is the most tokens that the model takes.
func (s *textModel) Context() int { return s.model.Config().MaxPositions }
