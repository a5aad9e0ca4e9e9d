package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// GenerateOptions says what to continue and how.
type GenerateOptions struct {
	Model     string // as in a configuration
	Adapter   string // directory of a LoRA adapter; "" = none
	Prompt    string // "" = start from the BOS token
	MaxTokens int
	Sampling  Sampling
	Device    string // "" = auto
	DType     string // compute dtype; "" = auto
	Scheme    string // "none" (or ""), "nf4" or "fp4" for the linear layers
	NoCache   bool   // compute every token from the whole text again
	Logger    *slog.Logger
}

// Generate continues a text and calls emit with each piece of new text, whole characters only. It ends at an end-of-text token,
// at MaxTokens, or when the model's context is full.
func Generate(ctx context.Context, o GenerateOptions, emit func(text string) error) (err error) {
	if err := errors.Join(o.Sampling.Check(), o.checkTokens()); err != nil {
		return err
	}
	s, err := openText(o)
	if err != nil {
		return classify(err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	ids, err := s.prompt(o.Prompt)
	if err != nil {
		return err
	}
	most := min(max(o.MaxTokens, 1), s.model.Config().MaxPositions)
	gen, err := NewGenerator(s.model.Llama, s.session, 1, len(ids)+most+roomForBucket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gen.Close()) }()
	gen.NoCache = o.NoCache
	stops := s.model.EOS()
	if bos, ok := s.model.BOS(); ok {
		stops = append(stops, bos) // a new text begins: this one is over
	}
	stream := tokenizer.NewStream(s.model.Tokenizer, tokenizer.DecodeOptions{SkipSpecial: true})
	for _, id := range ids {
		stream.Push(id)
	}
	var failed error
	err = gen.Generate(ctx, [][]int32{ids}, o.MaxTokens, o.Sampling, func(_ int, id int32) bool {
		if slices.Contains(stops, id) {
			return false
		}
		failed = emit(stream.Push(id))
		return failed == nil
	})
	if err == nil && failed == nil {
		failed = emit(stream.Flush())
	}
	return classify(errors.Join(err, failed))
}

func (o GenerateOptions) checkTokens() error {
	if o.MaxTokens < 0 {
		return badConfig("max-tokens", "is %d, expected 0 or more", o.MaxTokens)
	}
	return nil
}

// roomForBucket lets a prompt that is padded to a power of two still fit the cache.
const roomForBucket = 8

// textModel is a model opened for generation.
type textModel struct {
	dev     device.Device
	session *plan.Session
	model   *Model
}

func openText(o GenerateOptions) (s *textModel, err error) {
	s = &textModel{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dev, err = device.Open(o.Device); err != nil {
		return s, badConfig("device", "%v", err)
	}
	s.session = plan.NewSession(plan.NewStore(s.dev))
	cfg := config.Config{Model: o.Model, Adapter: config.Adapter{Type: "lora"}, Train: config.Train{DType: o.DType},
		Quantize: config.Quantize{Scheme: o.Scheme, Double: true}}
	policy, err := policyOf(cfg, s.dev.Info())
	if err != nil {
		return s, err
	}
	if o.Scheme == "none" {
		cfg.Quantize.Scheme = "" // a quantized directory is used as it is
	}
	if s.model, err = OpenModel(o.Model, ModelOptions{Policy: policy, Quantize: cfg.Quantize}); err != nil {
		return s, err
	}
	if s.model.Tokenizer == nil {
		return s, withCode(config.ExitInput, fmt.Errorf("model %s has no tokenizer beside it (tokenizer.json or tok*.bin)", o.Model))
	}
	var adapter *lora.Adapter
	if o.Adapter != "" {
		saved, err := lora.Load(vfs.OS{}, o.Adapter)
		if err != nil {
			return s, withCode(config.ExitInput, err)
		}
		if adapter, err = lora.AttachSaved(s.model.Llama, saved, nil); err != nil {
			return s, withCode(config.ExitInput, err)
		}
	}
	if err := s.model.Source.Load(s.session.Store()); err != nil {
		return s, withCode(config.ExitInput, fmt.Errorf("model %s: %w", o.Model, err))
	}
	if adapter != nil {
		return s, adapter.Init(s.session.Store())
	}
	return s, nil
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
	bos, ok := s.model.BOS()
	if ok && (len(ids) == 0 || ids[0] != bos) { // the data loader begins every document with it
		ids = append([]int32{bos}, ids...)
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
