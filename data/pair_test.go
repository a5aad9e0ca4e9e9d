package data

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPreferenceLayouts(t *testing.T) {
	const alpaca = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nI\n\n### Response:\n"
	for _, c := range []struct{ name, row, prompt, chosen, rejected string }{
		{"strings", `{"prompt":"P","chosen":"good","rejected":"bad"}`, "P", "good", "bad"},
		{"question", `{"system":"S","question":"Q","chosen":"good","rejected":"bad"}`, "S\n\nQ", "good", "bad"},
		{"alpaca", `{"instruction":"I","input":"","output":"o","chosen":"good","rejected":"bad"}`, alpaca, "good", "bad"},
		{"hh-rlhf", `{"chosen":"\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: good","rejected":"\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: great"}`,
			"\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " good", " great"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := load(t, Options{Pairs: true, Mask: MaskNone, BOS: []int32{1}, EOS: []int32{2}}, write(t, "a.jsonl", c.row))
			require.True(t, set.Pairs())
			require.Equal(t, 1, set.Len())
			p, err := set.Pair(0)
			require.NoError(t, err)
			require.Equal(t, c.prompt, bytesOf(p.Prompt))
			require.Equal(t, c.prompt+c.chosen, bytesOf(p.Chosen.IDs))
			require.Equal(t, c.prompt+c.rejected, bytesOf(p.Rejected.IDs))
			for _, e := range []Example{p.Chosen, p.Rejected} {
				require.Equal(t, p.Prompt, e.IDs[:len(p.Prompt)])
				require.Equal(t, slices.Repeat([]int32{Ignore}, len(p.Prompt)), e.Labels[:len(p.Prompt)])
				require.Equal(t, e.IDs[len(p.Prompt):], e.Labels[len(p.Prompt):], "every token of the answer and its end is trained")
				require.EqualValues(t, 2, e.IDs[len(e.IDs)-1])
			}
			r := set.Report()
			require.Equal(t, [2]int{1, 2}, [2]int{r.Pairs, r.Documents})
		})
	}
}

func TestPreferenceErrors(t *testing.T) {
	for row, says := range map[string]string{
		`{"prompt":"P","chosen":"same","rejected":"same"}`: "no row is left",
		`{"prompt":"P","chosen":"","rejected":"b"}`:        `empty answer "chosen"`,
		`{"chosen":"yes","rejected":"no"}`:                 `add the key "prompt"`,
		`{"prompt":"P","completion":"c"}`:                  "this objective trains on pairs",
		`{"prompt":3,"chosen":"a","rejected":"b"}`:         `"prompt" must be`,
	} {
		_, err := loadErr(Options{Pairs: true}, write(t, "a.jsonl", row))
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, "a.jsonl:")
	}
	_, err := loadErr(Options{}, write(t, "a.jsonl", `{"prompt":"P","chosen":"a","rejected":"b"}`))
	require.ErrorContains(t, err, "set train.objective to dpo")
	_, err = loadErr(Options{Format: "preference"}, write(t, "a.jsonl", `{}`))
	require.ErrorContains(t, err, "only a preference objective")
	_, err = loadErr(Options{Format: "alpaca", Pairs: true}, write(t, "a.jsonl", `{}`))
	require.ErrorContains(t, err, "has no pairs")
	set := load(t, Options{}, write(t, "a.jsonl", `{"text":"ab"}`))
	_, err = set.Pair(0)
	require.ErrorContains(t, err, "holds examples, not pairs")
}

// A pair whose shorter side loses its answer to the sequence length goes as a whole.
func TestPairsAreCutTogether(t *testing.T) {
	rows := `{"prompt":"abc","chosen":"defgh","rejected":"x"}
{"prompt":"abcdefgh","chosen":"i","rejected":"j"}
`
	set := load(t, Options{Pairs: true, SeqLen: 6}, write(t, "a.jsonl", rows))
	r := set.Report()
	require.Equal(t, [4]int{1, 2, 2, 1}, [4]int{r.Pairs, r.Documents, r.Truncated, r.Dropped})
	p, err := set.Pair(0)
	require.NoError(t, err)
	require.Equal(t, "abcdef", bytesOf(p.Chosen.IDs))
}

// Every pair appears once an epoch, its chosen example in the first half of a batch and the rejected one at the same place of the second.
func TestLoaderOfPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "pairs")
		set := setOf(24, rapid.SliceOfN(rapid.IntRange(2, 24), 2*n, 2*n).Draw(t, "lengths"))
		set.st.pairs = true
		set = (&builder{st: set.st}).set()
		require.Equal(t, n, set.Len())
		opt := LoaderOptions{Batch: rapid.IntRange(1, 5).Draw(t, "batch"), Pack: true, Shuffle: rapid.Bool().Draw(t, "shuffle"), Seed: 3, PadID: 7}
		opt.MicroBatch = rapid.IntRange(1, opt.Batch).Draw(t, "micro")
		l, err := NewLoader(set, opt)
		require.NoError(t, err)
		var seen []int32
		for s := range l.Steps() {
			step, err := l.Step(s)
			require.NoError(t, err)
			for i := range step {
				seen = append(seen, checkPairs(t, set, &step[i], opt.MicroBatch)...)
			}
		}
		slices.Sort(seen)
		require.Equal(t, set.rows, seen)
		require.LessOrEqual(t, l.Report().Efficiency, 1.0)
	})
}

func checkPairs(t *rapid.T, set *Set, b *Batch, micro int) (ids []int32) {
	require.Equal(t, 2*micro, b.B)
	require.LessOrEqual(t, b.Pairs, micro)
	targets := 0
	for r := range b.B {
		row := b.Sample[r*b.T : (r+1)*b.T]
		if r%micro >= b.Pairs {
			require.Equal(t, PadSample, row[0])
			continue
		}
		id := row[0]
		if r < micro {
			ids = append(ids, id)
		} else {
			require.Equal(t, b.Sample[(r-micro)*b.T]+1, id)
		}
		e, err := set.st.example(id)
		require.NoError(t, err)
		require.Equal(t, e.IDs, b.Tokens[r*b.T:r*b.T+len(e.IDs)])
		require.Equal(t, e.Labels, b.Labels[r*b.T:r*b.T+len(e.IDs)])
		targets += trained(e.Labels)
	}
	require.Equal(t, b.Targets, targets)
	return ids
}
