package trainer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Problem is something about the data that a user should know before training, with what can be done.
type Problem struct {
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

// leastShare is the share of trained tokens below which a run wastes most of its arithmetic on prompts.
const leastShare = 0.02

// DataProblems looks at the figures of a set, at the chat template that its rows were rendered by, and at how answers end. The error is that
// of reading a spilled set.
func (m *Model) DataProblems(set *data.Set, o data.Options) ([]Problem, error) {
	r, files := set.Report(), set.Files()
	out := figureProblems(r)
	if len(m.EOS()) == 0 && slices.ContainsFunc(files, func(f data.FileInfo) bool { return f.Format != "tokens" }) {
		out = append(out, Problem{"the model names no end-of-text token, so answers would not learn where to stop",
			"name one in config.json or tokenizer_config.json, or add it to the rows"})
	}
	if r.Rendered == 0 {
		return out, nil
	}
	if tr, ok := o.Renderer.(*data.TemplateRenderer); ok {
		for _, f := range tr.Template().Check(nil) {
			if f.Level > chat.Note {
				out = append(out, Problem{"chat template " + tr.Template().Name() + ": " + f.Message, "see docs/guides/data.md; data.template names another"})
			}
		}
	}
	end, err := m.endProblem(set)
	if err != nil || end == nil {
		return out, err
	}
	return append(out, *end), nil
}

// endProblem compares the last trained token of a row with those at which generation stops.
func (m *Model) endProblem(set *data.Set) (*Problem, error) {
	e, err := set.Example(0)
	if err != nil || len(m.EOS()) == 0 || m.Tokenizer == nil {
		return nil, err
	}
	for i := len(e.IDs) - 1; i >= 0; i-- {
		if e.Labels[i] == data.Ignore {
			continue
		}
		if len(e.IDs) == set.SeqLen() || slices.Contains(m.EOS(), e.IDs[i]) { // cut, or as it should be
			return nil, nil
		}
		return &Problem{fmt.Sprintf("answers end with %q (token %d), at which generation does not stop: the model's end tokens are %d", m.Tokenizer.Decode(e.IDs[i:i+1]),
			e.IDs[i], m.EOS()), "add it to eos_token_id in generation_config.json, or name a template with data.template whose end the model knows"}, nil
	}
	return nil, nil
}

// figureProblems looks at counts.
func figureProblems(r data.Report) []Problem {
	var out []Problem
	say := func(remedy, format string, args ...any) {
		out = append(out, Problem{fmt.Sprintf(format, args...), remedy})
	}
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return report.Count(int64(n)) + " " + what + "s"
	}
	if r.Bad > 0 {
		say("mend or remove them: training stops at the first", "%s cannot be used, of these %d without a token to train on", count(r.Bad, "row"), r.ZeroLabel)
	}
	if r.Truncated > 0 {
		say(fmt.Sprintf("raise data.seq_len (%d): the longest row has %d tokens", r.SeqLen, r.Longest), "%s longer than data.seq_len lose their end, %.1f%% of all",
			count(r.Truncated, "row"), 100*float64(r.Truncated)/float64(max(r.Rows, 1)))
	}
	if r.Dropped > 0 {
		say("raise data.seq_len, or shorten the prompts", "%s lose all trained tokens to data.seq_len and are left out", count(r.Dropped, "row"))
	}
	if r.Duplicates > 0 {
		say("remove them unless they are meant to weigh more", "%s of earlier examples, such as %s", count(r.Duplicates, "duplicate"), strings.Join(r.DuplicateAt, ", "))
	}
	switch {
	case r.Empty > 0 && r.Pairs > 0:
		say("nothing: there is no preference in them", "%s left out whose two answers are the same", count(r.Empty, "pair"))
	case r.Empty > 0:
		say("nothing: they are left out", "%s of white space or a single token", count(r.Empty, "text"))
	}
	if r.Ended > 0 {
		say("prefer the model's own template, whose end token the model knows", "the chat template ends the last turn with nothing: %s got the tokenizer's end of text",
			count(r.Ended, "conversation"))
	}
	if len(r.Differs) > 0 {
		say("the model is trained behind another text than it will meet: name another template with data.template, or leave turns out that the template rewrites",
			"the rendering for training is not that for inference in %s of the first, such as %s", count(len(r.Differs), "conversation"), r.Differs[0])
	}
	if r.Torn > 0 {
		say("a generation prompt must not end with white space that the tokenizer joins to the answer; change the template, or name another with data.template",
			"in %s a token holds the end of the prompt and the front of the answer: at inference the prompt ends inside it, so the model meets other tokens than it was trained on",
			count(r.Torn, "conversation"))
	}
	if r.Documents > 0 && r.Share < leastShare {
		say("check data.mask, and that prompts are not longer than they need be", "only %s of the tokens are trained", percent(r.Share))
	}
	return out
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }
