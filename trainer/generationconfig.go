package trainer

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// generationFile is where a model's makers say how they would have it write.
const generationFile = "generation_config.json"

// generationConfig is what is read of generation_config.json, under the names of transformers.
type generationConfig struct {
	EOS               tokenIDs `json:"eos_token_id"`
	DoSample          bool     `json:"do_sample"`
	Temperature       *float64 `json:"temperature"`
	TopK              *int     `json:"top_k"`
	TopP              *float64 `json:"top_p"`
	MinP              *float64 `json:"min_p"`
	RepetitionPenalty *float64 `json:"repetition_penalty"`
}

// tokenIDs is null, one id, or a list of them.
type tokenIDs []int32

// UnmarshalJSON implements json.Unmarshaler.
func (t *tokenIDs) UnmarshalJSON(raw []byte) error {
	var one *int32
	if json.Unmarshal(raw, &one) == nil {
		if *t = nil; one != nil {
			*t = tokenIDs{*one}
		}
		return nil
	}
	return json.Unmarshal(raw, (*[]int32)(t))
}

// generation reads generation_config.json; the zero value where there is none.
func (m *Model) generation() (c generationConfig, err error) {
	raw := m.TokFiles[generationFile]
	if raw == nil {
		return c, nil
	}
	if c, err = parseGeneration(raw, int32(m.Config().Vocab)); err != nil {
		return c, withCode(config.ExitInput, fmt.Errorf("model %s: %s: %w; correct or remove it", m.Name, generationFile, err))
	}
	return c, nil
}

func parseGeneration(raw []byte, vocab int32) (c generationConfig, err error) {
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, err
	}
	for _, id := range c.EOS {
		if id < 0 || id >= vocab {
			return c, fmt.Errorf("eos_token_id %d is not in the vocabulary of %d", id, vocab)
		}
	}
	return c, nil
}

// Sampling is what the model's makers suggest in generation_config.json, read as transformers does: greedy unless do_sample is set, and then
// temperature 1 and top-k 50 where they say nothing else. ok is false where there is no such file.
func (m *Model) Sampling() (s Sampling, ok bool, err error) {
	c, err := m.generation()
	if err != nil || m.TokFiles[generationFile] == nil {
		return s, false, err
	}
	s = c.sampling()
	if err := s.Check(); err != nil {
		return s, true, &exitError{config.ExitInput, fmt.Errorf("model %s: %s: %w; choose the settings yourself", m.Name, generationFile, err)}
	}
	return s, true, nil
}

func (c generationConfig) sampling() (s Sampling) {
	if c.DoSample {
		s.Temperature, s.TopK = 1, defaultTopK
	}
	set := func(to, from *float64) {
		if from != nil {
			*to = *from
		}
	}
	set(&s.RepetitionPenalty, c.RepetitionPenalty)
	if c.DoSample {
		set(&s.Temperature, c.Temperature)
		set(&s.TopP, c.TopP)
		set(&s.MinP, c.MinP)
		if c.TopK != nil {
			s.TopK = *c.TopK
		}
	}
	return s
}

// defaultTopK is that of transformers.
const defaultTopK = 50

// EOS returns the ids that end a text: those of the model's configuration, and what generation_config.json adds; where both are silent, the
// tokenizer's.
func (m *Model) EOS() []int32 {
	c, err := m.generation()
	if err != nil { // OpenModel reported it
		c.EOS = nil
	}
	out := mergeIDs(m.Config().EOS, c.EOS)
	if m.Tokenizer != nil && len(out) == 0 {
		if id, ok := m.Tokenizer.EOS(); ok {
			out = append(out, id)
		}
	}
	return out
}

// mergeIDs is a followed by what is new in b; a and b stay as they are.
func mergeIDs(a, b []int32) []int32 {
	out := slices.Clone(a)
	for _, id := range b {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}
