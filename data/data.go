// Package data turns files of text, prompts or token ids into fixed-shape training batches.
//
// It works in two stages. [Load] streams the files, tokenises every row and keeps the token ids of all examples, each no longer than
// the sequence length, in memory up to a limit and in a file beyond it. A [Loader] then maps a step number to the micro-batches of
// that step. The map is a pure function of the set, the options and the step: resuming a run needs the step number and nothing else,
// and any rank of a distributed run can build any micro-batch alone.
//
// A row becomes an example in three stages: a [Format] reads its keys into a prompt and an answer, or into a [Conversation]; a
// [Renderer] turns that into text with the places of its turns; the [Mask] chooses the turns whose tokens are trained.
//
// Labels are aligned with the ids, as in transformers: Labels[t] is the id at t or [Ignore]. The shift (position t predicts the
// token at t+1) is made by [Batch.Shift].
package data

import (
	"fmt"
	"math"
)

// Ignore is the label of a token that is not trained.
const Ignore int32 = -100

// DefaultSeqLen is the sequence length when none is given.
const DefaultSeqLen = 2048

// Encoder is what the package needs of a tokenizer. Encode must add no special tokens, and must be safe for concurrent use when
// Options.Workers > 1.
type Encoder interface {
	Encode(text string) ([]int32, error)
}

// File is one input: a file or a glob pattern, and how often each of its rows is seen in an epoch. Weight 0 means 1; a
// fractional part takes that share of the rows, another share each epoch.
type File struct {
	Path   string
	Weight float64
}

// Mask says which tokens of a row with a prompt are trained.
type Mask string

// The masks. In a conversation all that the assistant did not write is prompt, so MaskPrompt and MaskAssistant are the same;
// MaskLast trains the last assistant turn alone. For rows of one prompt and one answer all three are the same. A message that says
// train or weight itself overrides them. Pairs ignore the mask: their answers are trained. So do the formats text and tokens.
const (
	MaskPrompt    Mask = "prompt"
	MaskNone      Mask = "none"
	MaskAssistant Mask = "assistant"
	MaskLast      Mask = "last"
)

// Options of Load. The zero value reads any known format, cut to DefaultSeqLen, without special tokens and masking prompts.
type Options struct {
	Format    string                    // a name of the table of formats; "" or "auto" chooses by the first row of each file
	SeqLen    int                       // longest example in tokens; 0 = DefaultSeqLen
	Mask      Mask                      // "" = MaskPrompt
	BOS, EOS  []int32                   // ids put before and after every document; empty = none
	Vocab     int                       // ids must be below it; 0 = not checked
	Separator string                    // plain text: ends a document and is removed; "" = the whole file is one document
	Overlap   int                       // text: tokens that a window repeats, untrained, from the one before; 1 makes every token a target once
	Workers   int                       // goroutines that tokenise; 0 = 1
	Renderer  Renderer                  // chat template of conversations; nil refuses them
	AsChat    bool                      // prompts and answers that are plain text (prompt_completion, alpaca, preference) are rendered as conversations too
	Roles     []string                  // of turns, beside those of UnknownRole
	AnyRole   bool                      // turns may have any role: for rows that nothing is trained on
	Pairs     bool                      // rows are preferences: each gives a chosen and a rejected example
	OnBadRow  func(err *RowError) error // told of a row that cannot be used; nil goes on without the row. Without the function, the first ends Load
	SpillDir  string                    // folder of the file for tokens beyond Limits.Memory; "" = the system's for temporary files
	Formats   []Format                  // further formats, tried before the built-in ones
	Limits    Limits
}

// Limits bound what a hostile file can make Load allocate. Zero fields take the defaults.
type Limits struct {
	RowBytes    int   // longest line, JSON row or line of plain text; 0 = 64 MiB
	ExpandRatio int   // a compressed file beyond 64 MiB may expand to at most this many times its size; 0 = 100
	Tokens      int64 // tokens in the set; 0 = 2^36
	Memory      int64 // bytes of tokens kept in memory, in blocks of 4 MiB; the rest lies in a file; 0 = 1 GiB
}

const (
	defaultRowBytes    = 64 << 20
	defaultExpandRatio = 100
	gzipFree           = 64 << 20
	defaultTokens      = 1 << 36
	defaultMemory      = 1 << 30
	maxWeight          = 1000
)

func (o Options) withDefaults() (Options, error) {
	if o.SeqLen == 0 {
		o.SeqLen = DefaultSeqLen
	}
	if o.Mask == "" {
		o.Mask = MaskPrompt
	}
	if o.Format == "" {
		o.Format = "auto"
	}
	o.Workers = max(o.Workers, 1)
	o.Limits = o.Limits.withDefaults()
	switch {
	case o.SeqLen < 2 || o.SeqLen > math.MaxInt32/2:
		return o, fmt.Errorf("data: seq_len %d: must be at least 2 (a token and the one it predicts) and below 2^30", o.SeqLen)
	case o.Overlap < 0 || o.Overlap >= o.SeqLen:
		return o, fmt.Errorf("data: overlap %d: must be at least 0 and below seq_len %d", o.Overlap, o.SeqLen)
	case o.Vocab < 0:
		return o, fmt.Errorf("data: vocab %d is negative; give 0 to leave ids unchecked", o.Vocab)
	}
	switch o.Mask {
	case MaskPrompt, MaskNone, MaskAssistant, MaskLast:
	default:
		return o, fmt.Errorf("data: unknown mask %q; known: prompt, none, assistant, last", o.Mask)
	}
	for _, id := range append(append([]int32(nil), o.BOS...), o.EOS...) {
		if reason := badID(id, o.Vocab); reason != "" {
			return o, fmt.Errorf("data: BOS/EOS: %s", reason)
		}
	}
	return o, nil
}

func (l Limits) withDefaults() Limits {
	if l.RowBytes <= 0 {
		l.RowBytes = defaultRowBytes
	}
	if l.ExpandRatio <= 0 {
		l.ExpandRatio = defaultExpandRatio
	}
	if l.Tokens <= 0 {
		l.Tokens = defaultTokens
	}
	if l.Memory <= 0 {
		l.Memory = defaultMemory
	}
	return l
}

func badID(id int32, vocab int) string {
	if id < 0 {
		return fmt.Sprintf("token id %d is negative", id)
	}
	if vocab > 0 && int(id) >= vocab {
		return fmt.Sprintf("token id %d is beyond the vocabulary of %d; use the tokenizer that belongs to the model", id, vocab)
	}
	return ""
}
