package trainer

import (
	"fmt"
	"slices"
	"strings"

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

// DataProblems looks at the figures of a set and at what the model says of it.
func (m *Model) DataProblems(r data.Report, files []data.FileInfo) []Problem {
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
	if r.Empty > 0 {
		say("nothing: they are left out", "%s of white space or a single token", count(r.Empty, "text"))
	}
	if r.Ended > 0 {
		say("prefer the model's own template, whose end token the model knows", "the chat template ends the last turn with nothing: %s got the tokenizer's end of text",
			count(r.Ended, "conversation"))
	}
	if r.Documents > 0 && r.Share < leastShare {
		say("check data.mask, and that prompts are not longer than they need be", "only %s of the tokens are trained", percent(r.Share))
	}
	if len(m.EOS()) == 0 && slices.ContainsFunc(files, func(f data.FileInfo) bool { return f.Format != "tokens" }) {
		say("name one in config.json or tokenizer_config.json, or add it to the rows", "the model names no end-of-text token, so answers would not learn where to stop")
	}
	return out
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }
