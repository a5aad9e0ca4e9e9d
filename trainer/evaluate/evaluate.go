// Package evaluate measures a model on files: perplexity of a text in sliding windows and of the replies of conversations, multiple choice by
// likelihood, and answers that are exactly right. Every figure comes with its standard error and with what was counted.
package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Options say what is measured. At least one of Text, Messages, Choices and Exact is set.
type Options struct {
	FS       vfs.FS // nil: the operating system's; Messages is always read from there
	Text     string // file of plain text, or .gz: perplexity
	Messages string // file or pattern of conversations, in any form that training reads: perplexity of the replies
	Choices  string // JSON lines of questions with choices
	Exact    string // JSON lines of prompts with answers
	Limit    int    // rows, or tokens of the text; 0 = all

	Chat      bool   // questions and prompts are written by the writer's chat template, as a user's turn
	System    string // with Chat: what the model is told first
	Template  string // of Messages, as the writer has it: a file or a built-in one; "" = the model's
	Shots     int    // examples with their answers before each question
	ShotsFrom string // their file, of the same form as the questions'; the first rows that are not the question itself

	Context int    // tokens of a window; 0 = the model's context, at most 2,048
	Stride  int    // tokens between the starts of windows; 0 = Context, windows that do not overlap
	BOS     string // auto, always or never: begin every window with the BOS token; "" = auto, as the tokenizer does

	Separator *string // between question and choice, and in examples between prompt and answer; nil = a space, nothing with Chat
	Match     string  // how an answer is compared: exact, contains or number; "" = exact

	// Progress, if set, is told how much of how much is done.
	Progress func(task string, done, total int)
}

// Result is what was measured; a task that was not asked for is nil.
type Result struct {
	Perplexity    *Perplexity    `json:"perplexity,omitempty"`
	Conversations *Conversations `json:"messages,omitempty"`
	Choices       *Choices       `json:"choices,omitempty"`
	Exact         *Exact         `json:"exact,omitempty"`
}

// inputError is a bad file: exit code 3.
type inputError struct{ error }

// ExitCode is config.ExitInput.
func (inputError) ExitCode() int { return config.ExitInput }

// Unwrap returns the cause.
func (e inputError) Unwrap() error { return e.error }

func badFile(format string, args ...any) error { return inputError{fmt.Errorf(format, args...)} }

// Check reports settings out of range.
func (o Options) Check() error {
	bad := badOption
	switch {
	case o.Text == "" && o.Messages == "" && o.Choices == "" && o.Exact == "":
		return bad("", "nothing to measure: give --text, --messages, --choices or --exact")
	case o.Shots < 0:
		return bad("shots", "is %d, expected a number of examples", o.Shots)
	case (o.Shots > 0) != (o.ShotsFrom != ""):
		return bad("shots", "and --shots-from belong together: how many examples, and the file that holds them")
	case o.Shots > 0 && o.Choices == "" && o.Exact == "":
		return bad("shots", "are for --choices and --exact")
	case o.System != "" && !o.Chat:
		return bad("system", "needs --chat; without it prompts are plain text")
	case o.Limit < 0:
		return bad("limit", "is %d, expected 1 or more, or 0 for all", o.Limit)
	case o.Context < 0 || o.Context == 1:
		return bad("context", "is %d, expected 2 tokens or more, or 0 for the model's", o.Context)
	case o.Stride < 0:
		return bad("stride", "is %d, expected 1 token or more, or 0 for the window's length", o.Stride)
	case o.Context > 0 && o.Stride > o.Context:
		return bad("stride", "is %d, more than the window of %d tokens: some tokens would not be counted", o.Stride, o.Context)
	case o.BOS != "" && o.BOS != "auto" && o.BOS != "always" && o.BOS != "never":
		return bad("bos", "is %q, expected auto, always or never", o.BOS)
	case o.Match != "" && o.Match != MatchExact && o.Match != MatchContains && o.Match != MatchNumber:
		return bad("match", "is %q, expected %s, %s or %s", o.Match, MatchExact, MatchContains, MatchNumber)
	}
	return nil
}

func badOption(key, format string, args ...any) error {
	return &config.ErrConfig{Key: key, Flag: key != "", Reason: fmt.Sprintf(format, args...)}
}

// Run measures what o asks for.
func Run(ctx context.Context, w *trainer.Writer, o Options) (*Result, error) {
	o.FS = vfs.Or(o.FS)
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	r := &Result{}
	var err error
	if o.Text != "" {
		if r.Perplexity, err = perplexity(ctx, w, o); err != nil {
			return nil, err
		}
	}
	if o.Messages != "" {
		if r.Conversations, err = conversations(ctx, w, o); err != nil {
			return nil, err
		}
	}
	if o.Choices != "" {
		if r.Choices, err = choices(ctx, w, o); err != nil {
			return nil, err
		}
	}
	if o.Exact != "" {
		if r.Exact, err = exact(ctx, w, o); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// stderrOf is the standard error of a share of n.
func stderrOf(share float64, n int) float64 {
	if n < 2 {
		return 0
	}
	return math.Sqrt(share * (1 - share) / float64(n-1))
}

// Text prints the result for a person.
func (r *Result) Text() string {
	var b strings.Builder
	if p := r.Perplexity; p != nil {
		fmt.Fprintf(&b, "perplexity  %.4f  (%.6f nats a token, %.4f bits a byte)  top-1 %.2f%%  %d tokens in %d windows of %d, stride %d\n", p.Perplexity, p.NLL, p.BitsPerByte,
			100*p.Top1, p.Tokens, p.Windows, p.Context, p.Stride)
	}
	if c := r.Conversations; c != nil {
		fmt.Fprintf(&b, "messages    perplexity %.4f  (%.6f%s nats a token of the replies)  top-1 %.2f%%  %d tokens, conversations: %d", c.Perplexity, c.NLL, doubt(c.StdErr, len(c.Rows)),
			100*c.Top1, c.Tokens, len(c.Rows))
		if c.Truncated > 0 || c.Dropped > 0 {
			fmt.Fprintf(&b, "; %d cut at the context, %d left out", c.Truncated, c.Dropped)
		}
		b.WriteByte('\n')
	}
	if c := r.Choices; c != nil {
		fmt.Fprintf(&b, "choices     %.2f%% ± %.2f right by likelihood, %.2f%% ± %.2f by likelihood a byte  %d questions\n", 100*c.Accuracy, 100*c.StdErr, 100*c.AccuracyNorm,
			100*c.StdErrNorm, c.Questions)
	}
	if e := r.Exact; e != nil {
		fmt.Fprintf(&b, "exact       %.2f%% ± %.2f right (%s)  %d of %d\n", 100*e.Accuracy, 100*e.StdErr, e.Match, e.Right, e.Questions)
	}
	return b.String()
}

// doubt writes a standard error, which a single unit does not have.
func doubt(stderr float64, units int) string {
	if units < 2 {
		return ""
	}
	return fmt.Sprintf(" ± %.6f", stderr)
}

// errNoRow is a file without anything to measure on.
var errNoRow = errors.New("holds no row")
