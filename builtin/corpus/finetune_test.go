package corpus

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFineTuneSplit(t *testing.T) {
	train, held := FineTune(1)
	require.Len(t, train, TrainRows)
	require.Len(t, held, HeldOutRows)
	prompts, records := map[string]bool{}, map[string]bool{}
	for _, row := range train {
		require.False(t, prompts[row.Prompt], "twice: %s", row.Prompt)
		prompts[row.Prompt], records[row.Completion] = true, true
	}
	for _, row := range held {
		require.False(t, prompts[row.Prompt], "in both: %s", row.Prompt)
		require.False(t, records[row.Completion], "in both: %s", row.Completion)
	}
	again, _ := FineTune(1)
	require.Equal(t, train, again)
	other, _ := FineTune(2)
	require.NotEqual(t, train, other)
}

// TestFineTuneRows checks that each record can be read from its prompt, and that held-out rows bring no new word.
func TestFineTuneRows(t *testing.T) {
	form := regexp.MustCompile(`^ who: (\w+), what: (\w+), colour: (\w+), where: (\w+ the \w+)\.$`)
	train, held := FineTune(1)
	known := map[string]bool{}
	for _, row := range train {
		for _, w := range letters.FindAllString(row.Prompt+row.Completion, -1) {
			known[strings.ToLower(w)] = true
		}
	}
	pretrained := map[string]bool{}
	for d := range Generate(1, 5000) {
		for _, w := range letters.FindAllString(strings.ToLower(d), -1) {
			pretrained[w] = true
		}
	}
	for i, row := range append(held, train...) {
		m := form.FindStringSubmatch(row.Completion)
		require.NotNil(t, m, row.Completion)
		require.True(t, strings.HasPrefix(row.Prompt, "Story: ") && strings.HasSuffix(row.Prompt, "\nList:"), row.Prompt)
		for _, fact := range m[1:] {
			require.Regexp(t, `(?i)\b`+fact+`\b`, row.Prompt)
		}
		for _, w := range letters.FindAllString(strings.ToLower(row.Prompt+row.Completion), -1) {
			require.True(t, pretrained[w] || w == "list", "%q does not occur in the pretraining text", w)
			require.True(t, known[w] || i >= len(held), "%q occurs in held-out rows only", w)
		}
	}
}
