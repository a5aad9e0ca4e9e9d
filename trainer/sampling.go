package trainer

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// Sampling says how the next token is chosen. The zero value is greedy. Where several are set they apply in the order of the fields, as in
// transformers: penalties to the scores, then the temperature, then each cut to what the one before left.
type Sampling struct {
	// RepetitionPenalty divides the positive scores of tokens that occurred in the prompt or the answer, and multiplies the negative ones
	// (Keskar et al. 2019, section 4.1); 0 or 1 = none.
	RepetitionPenalty float64
	// PresencePenalty is taken off the scores of tokens that occurred in the answer, FrequencyPenalty as often as they did.
	PresencePenalty, FrequencyPenalty float64

	Temperature float64 // 0 = greedy: the token of the largest score, the lowest id on a tie
	TopK        int     // among the K largest scores; 0 = all
	TopP        float64 // among the fewest tokens whose probabilities add up to P (Holtzman et al. 2019); 0 or 1 = all
	MinP        float64 // among the tokens that have at least this share of the likeliest one's probability (Nguyen et al. 2024); 0 = all
	Seed        uint64  // row i of a batch draws from a stream of its own, whatever the other rows are
}

// Check reports a setting out of range.
func (s Sampling) Check() error {
	finite := func(x float64) bool { return x-x == 0 }
	switch {
	case !(s.Temperature >= 0) || !finite(s.Temperature):
		return badConfig("temperature", "is %v, expected a finite number from 0 (greedy)", s.Temperature)
	case s.TopK < 0:
		return badConfig("top-k", "is %d, expected a number of tokens from 1, or 0 for all", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return badConfig("top-p", "is %v, expected a probability from 0 to 1", s.TopP)
	case !(s.MinP >= 0 && s.MinP <= 1):
		return badConfig("min-p", "is %v, expected a share from 0 to 1", s.MinP)
	case !(s.RepetitionPenalty >= 0) || !finite(s.RepetitionPenalty):
		return badConfig("repetition-penalty", "is %v, expected a factor above 0; 1 is none", s.RepetitionPenalty)
	case !finite(s.PresencePenalty):
		return badConfig("presence-penalty", "is %v, expected a finite number", s.PresencePenalty)
	case !finite(s.FrequencyPenalty):
		return badConfig("frequency-penalty", "is %v, expected a finite number", s.FrequencyPenalty)
	}
	return nil
}

// sampler chooses the tokens of one row.
type sampler struct {
	Sampling
	rng    *rand.Rand
	prompt map[int32]bool // tokens of the prompt
	count  map[int32]int  // of the answer
	scores []float32      // the penalised copy
	best   []candidate
}

func (s Sampling) sampler(row int, prompt []int32) *sampler {
	c := &sampler{Sampling: s, rng: rand.New(rand.NewPCG(s.Seed, 0x9e3779b97f4a7c15+uint64(row)))}
	if !s.penalises() {
		return c
	}
	c.prompt, c.count = map[int32]bool{}, map[int32]int{}
	for _, id := range prompt {
		c.prompt[id] = true
	}
	return c
}

func (s Sampling) penalises() bool {
	return s.RepetitionPenalty > 0 && s.RepetitionPenalty != 1 || s.PresencePenalty != 0 || s.FrequencyPenalty != 0
}

// next chooses a token and remembers it.
func (c *sampler) next(logits []float32) int32 {
	logits = c.penalise(logits)
	id := largest(logits)
	if c.Temperature > 0 {
		id = c.draw(c.candidates(logits))
	}
	if c.count != nil {
		c.count[id]++
	}
	return id
}

// penalise returns the scores with the penalties, the given ones if there are none.
func (c *sampler) penalise(logits []float32) []float32 {
	if c.count == nil {
		return logits
	}
	c.scores = append(c.scores[:0], logits...)
	repeat := func(id int32) {
		if p := c.RepetitionPenalty; p > 0 && p != 1 {
			x := float64(c.scores[id])
			if x > 0 {
				x /= p
			} else {
				x *= p
			}
			c.scores[id] = float32(x)
		}
	}
	for id := range c.prompt {
		repeat(id)
	}
	for id, n := range c.count {
		if !c.prompt[id] {
			repeat(id)
		}
		c.scores[id] -= float32(c.PresencePenalty + float64(n)*c.FrequencyPenalty)
	}
	return c.scores
}

// largest is the first of the largest scores. Eight at a time are looked at, as nearly all are below what was found before.
func largest(logits []float32) int32 {
	best, top := 0, logits[0]
	i := 0
	for ; i+8 <= len(logits); i += 8 {
		x := (*[8]float32)(logits[i:])
		if !(x[0] > top || x[1] > top || x[2] > top || x[3] > top || x[4] > top || x[5] > top || x[6] > top || x[7] > top) {
			continue
		}
		for j, v := range x {
			if v > top {
				best, top = i+j, v
			}
		}
	}
	for ; i < len(logits); i++ {
		if logits[i] > top {
			best, top = i, logits[i]
		}
	}
	return int32(best)
}

type candidate struct {
	id int32
	p  float64
}

// likelier orders candidates: by probability, then the lower id.
func likelier(a, b candidate) int {
	return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.id, b.id))
}

// draw chooses among candidates by their probabilities, which need not add up to 1.
func (c *sampler) draw(from []candidate) int32 {
	var total float64
	for _, x := range from {
		total += x.p
	}
	r := c.rng.Float64() * total
	for _, x := range from {
		if r -= x.p; r < 0 {
			return x.id
		}
	}
	return from[len(from)-1].id
}

// candidates returns the tokens that the cuts leave with their probabilities as shares of the likeliest one's, likeliest first. Only as many
// are sorted as the cuts may need.
func (c *sampler) candidates(logits []float32) []candidate {
	top := float64(logits[largest(logits)])
	all := c.best[:0]
	var total float64
	for i, x := range logits {
		p := math.Exp((float64(x) - top) / c.Temperature)
		total += p
		all = append(all, candidate{int32(i), p})
	}
	c.best = all
	switch {
	case c.TopK > 0 && c.TopK < len(all):
		all = c.likeliest(all, c.TopK)
		total = 0
		for _, x := range all {
			total += x.p
		}
		all = cutTopP(all, c.TopP, total)
	case c.TopP > 0 && c.TopP < 1:
		n := 64
		left := cutTopP(c.likeliest(all, n), c.TopP, total)
		for len(left) == n && n < len(all) {
			n *= 8
			left = cutTopP(c.likeliest(all, n), c.TopP, total)
		}
		all = left
	default:
		all = slices.DeleteFunc(all, func(x candidate) bool { return x.p < c.MinP })
		slices.SortFunc(all, likelier)
		return all
	}
	if i := slices.IndexFunc(all, func(x candidate) bool { return x.p < c.MinP }); i >= 0 {
		all = all[:i]
	}
	return all
}

// likeliest moves the n likeliest candidates to the front in order and returns them.
func (c *sampler) likeliest(all []candidate, n int) []candidate {
	n = min(n, len(all))
	partition(all, n)
	slices.SortFunc(all[:n], likelier)
	return all[:n]
}

// partition reorders x so that its first n elements are the n likeliest (quickselect, median of three).
func partition(x []candidate, n int) {
	for lo, hi := 0, len(x); hi-lo > 1 && n > lo && n < hi; {
		pivot := median(x[lo], x[(lo+hi)/2], x[hi-1])
		less, i, more := lo, lo, hi // x[lo:less] before the pivot, x[less:i] it, x[more:hi] behind it
		for i < more {
			switch d := likelier(x[i], pivot); {
			case d < 0:
				x[i], x[less] = x[less], x[i]
				less++
				i++
			case d > 0:
				more--
				x[i], x[more] = x[more], x[i]
			default:
				i++
			}
		}
		switch {
		case n <= less:
			hi = less
		case n >= more:
			lo = more
		default:
			return
		}
	}
}

func median(a, b, c candidate) candidate {
	if likelier(b, a) < 0 {
		a, b = b, a
	}
	if likelier(c, a) < 0 {
		return a
	}
	if likelier(c, b) < 0 {
		return c
	}
	return b
}

// cutTopP keeps the fewest candidates whose probabilities add up to the share p of total.
func cutTopP(x []candidate, p, total float64) []candidate {
	if !(p > 0 && p < 1) {
		return x
	}
	var sum float64
	for i := range x {
		if sum += x[i].p; sum >= p*total {
			return x[:i+1]
		}
	}
	return x
}
