// Package corpus writes the text that the built-in tiny model is trained on, and the data of its built-in fine-tuning run.
//
// A model of a million parameters cannot learn English, but it can learn a small world completely. The text here describes such a
// world with some 600 words: people, animals, places, weather, simple causes, facts that never change (what the fox eats, the
// colour of snow, what comes after three) and facts that hold within one document only (who found the red kite, and where). Both
// kinds are asked about as "Question: ...\nAnswer: ...": the first kind teaches facts, the second teaches to copy a word from
// what stands before. The fine-tuning set (FineTune) then asks for the same facts in a record that the pretraining text never shows.
//
// Everything is drawn from seeded PCG: equal seeds give equal bytes on every platform.
package corpus

import (
	"hash/fnv"
	"iter"
	"strings"
)

// Documents have MinWords to MaxWords words (runs of letters between spaces).
const (
	MinWords = 30
	MaxWords = 150
)

// Streams keep the draws of the corpus and of the fine-tuning set apart when both use one seed.
const (
	streamCorpus = iota + 1
	streamFineTune
)

// maker writes one kind of document, before finish; weight is its share in percent of the draws.
type maker struct {
	weight int
	write  func(*rng) string
}

// makers are the kinds of document. Nearly half of the draws end with questions about the document itself: recall is what the
// fine-tuning run builds on.
var makers = []maker{
	{16, story}, {9, storyWithQuestions}, {34, recall}, {6, possessions}, {4, diary},
	{6, portrait}, {8, quiz}, {4, counting}, {5, dialogue}, {4, tale}, {4, echo},
}

// Generate yields n different documents of plain text, lines separated by \n, none at the end. The first documents of a longer
// sequence are those of a shorter one with the same seed. A document drawn twice is drawn again, which costs 16 bytes of memory
// a document; n <= 0 yields nothing.
func Generate(seed uint64, n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		r := newRNG(seed, streamCorpus)
		seen := map[[16]byte]struct{}{}
		for len(seen) < n {
			doc := finish(draw(r))
			words := len(strings.Fields(doc))
			key := digest(doc)
			if _, dup := seen[key]; dup || words < MinWords || words > MaxWords {
				continue
			}
			seen[key] = struct{}{}
			if !yield(doc) {
				return
			}
		}
	}
}

func draw(r *rng) string {
	total := 0
	for _, m := range makers {
		total += m.weight
	}
	i := r.intN(total)
	for _, m := range makers {
		if i -= m.weight; i < 0 {
			return m.write(r)
		}
	}
	return "" // not reached: the weights add up to total
}

func digest(s string) (key [16]byte) {
	h := fnv.New128a()
	_, _ = h.Write([]byte(s)) // a hash's Write returns no error
	h.Sum(key[:0])
	return key
}
