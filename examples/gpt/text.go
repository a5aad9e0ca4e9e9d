package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// text is a text as numbers of its own alphabet.
type text struct {
	chars []rune // the alphabet, in order
	ids   []int32
	rng   *rand.Rand
}

// readText reads a file, or makes up a few thousand short stories.
func readText(path string) (*text, error) {
	var s string
	if path == "" {
		s = strings.Join(slices.Collect(corpus.Generate(1, 2000)), "\n\n")
	} else {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s = string(raw)
	}
	runes := []rune(s)
	const least = 1000
	if len(runes) < least {
		return nil, fmt.Errorf("%s has %d characters; give at least %d", path, len(runes), least)
	}
	t := &text{chars: slices.Compact(slices.Sorted(slices.Values(runes))), rng: rand.New(rand.NewPCG(1, 2))}
	for _, r := range runes {
		i, _ := slices.BinarySearch(t.chars, r)
		t.ids = append(t.ids, int32(i))
	}
	return t, nil
}

// batch cuts rows of n characters at random places; the target of each is the one that follows.
func (t *text) batch(rows, n int) (tokens, targets *tensor.Tensor, err error) {
	x, y := make([]int32, 0, rows*n), make([]int32, 0, rows*n)
	for range rows {
		at := t.rng.IntN(len(t.ids) - n)
		x = append(x, t.ids[at:at+n]...)
		y = append(y, t.ids[at+1:at+n+1]...)
	}
	if tokens, err = tensor.Of(x, rows, n); err != nil {
		return nil, nil, err
	}
	targets, err = tensor.Of(y, rows, n)
	return tokens, targets, err
}

// draw picks a character with probability proportional to exp(score / temperature).
func (t *text) draw(scores []float32, temperature float64) int32 {
	top := float64(slices.Max(scores))
	weights := make([]float64, len(scores))
	var sum float64
	for i, s := range scores {
		weights[i] = math.Exp((float64(s) - top) / temperature)
		sum += weights[i]
	}
	u := t.rng.Float64() * sum
	for i, w := range weights {
		if u -= w; u < 0 {
			return int32(i)
		}
	}
	return int32(len(scores) - 1)
}

func (t *text) decode(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteRune(t.chars[id])
	}
	return b.String()
}
