package trainer

import (
	"context"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// LoadRows reads the rows of data.path as a run with that configuration would, with their masks. Turns may have the writer's roles too.
func (w *Writer) LoadRows(ctx context.Context, c config.Config) (*data.Set, error) {
	c.Data.Roles = append(slices.Clip(c.Data.Roles), w.o.Roles...)
	o, err := w.model.DataOptions(c)
	if err != nil {
		return nil, classify(err)
	}
	set, err := data.Load(ctx, NewEncoder(w.model.Tokenizer), sourceFiles(c.Data.Path), o)
	if err != nil {
		return nil, DataError(c, err)
	}
	return set, nil
}

// PlainTokens are the ids of a text without those that the tokenizer adds around it: a text of the chat template, which has them.
func (s *textModel) PlainTokens(text string) ([]int32, error) {
	ids, err := s.model.Tokenizer.EncodeWith(text, tokenizer.EncodeOptions{NoSpecial: true})
	return ids, withCode(config.ExitInput, err)
}
