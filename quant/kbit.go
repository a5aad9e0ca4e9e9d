package quant

import (
	"fmt"
	"math"
	"slices"
	"sync"
)

// NormalLevels returns the 2^bits values that a KBit format uses where none are fitted: quantiles of the normal distribution scaled to
// [-1, 1], 2^(bits-1) positive ones, one fewer negative, and 0, built as NF4 was (QLoRA, arXiv 2305.14314, appendix E). bits is 2 to 6.
func NormalLevels(bits int) ([]float32, error) {
	if bits < 2 || bits > 6 {
		return nil, fmt.Errorf("quant: table of %d bits: use 2 to 6", bits)
	}
	return slices.Clone(normalLevels(bits)), nil
}

func normalLevels(bits int) []float32 { return normalTables()[bits] }

var normalTables = sync.OnceValue(func() (t [7][]float32) {
	for bits := 2; bits < len(t); bits++ {
		n := 1 << bits
		// The outermost probability of NF4 is the mean of those that leave half a step at either end of n and of n-1 steps.
		offset := 1 - (1/float64(2*n)+1/float64(2*n-2))/2
		levels := []float32{0}
		for i := range n / 2 {
			levels = append(levels, float32(normalQuantile(offset, i, n/2)))
		}
		for i := range n/2 - 1 {
			levels = append(levels, float32(-normalQuantile(offset, i, n/2-1)))
		}
		top := slices.Max(levels)
		for i := range levels {
			levels[i] /= top
		}
		slices.Sort(levels)
		t[bits] = levels
	}
	return t
})

// levelSearch finds the nearest of ascending levels, ties to the even code.
type levelSearch struct {
	// border[k] is the largest value whose code is at most k, in float64, where middles of float32 values are exact.
	border []float64
	// start[i] is the first code that values of bucket i may have; buckets are 1/searchBuckets of [-1, 1] wide and grow to both sides.
	start [searchBuckets]uint8
}

const searchBuckets = 512

func newLevelSearch(levels []float32) *levelSearch {
	s := &levelSearch{border: make([]float64, len(levels)-1)}
	for k := range s.border {
		s.border[k] = (float64(levels[k]) + float64(levels[k+1])) / 2
		if k%2 == 1 { // a tie goes up, to the even code
			s.border[k] = math.Nextafter(s.border[k], math.Inf(-1))
		}
	}
	for i := range s.start {
		k := 0
		for lowest := float64(i)/(searchBuckets/2) - 1; i > 0 && k < len(s.border) && lowest > s.border[k]; {
			k++
		}
		s.start[i] = uint8(k)
	}
	return s
}

func (s *levelSearch) nearest(q float64) uint8 {
	i := min(max(int((q+1)*(searchBuckets/2)), 0), searchBuckets-1)
	k := int(s.start[i])
	for k < len(s.border) && q > s.border[k] {
		k++
	}
	return uint8(k)
}

// codes writes the codes of x/scale.
func (s *levelSearch) codes(codes []uint8, x []float32, scale float32) {
	if scale == 0 {
		zero := s.nearest(0)
		for i := range codes {
			codes[i] = zero
		}
		return
	}
	for i, v := range x {
		codes[i] = s.nearest(min(max(float64(v/scale), -2), 2))
	}
}

// fitBins is how finely values over [-1, 1] are counted to fit a table.
const fitBins = 1 << 13

// fitLevels finds the table of 2^bits values that minimises the mean squared error of the blocks' scaled elements: Lloyd's iteration
// (Lloyd 1982) in float64 on a histogram, from the quantiles of the normal distribution. Zero stays a value, so that pruned weights and
// padding stay zero. The outcome does not depend on how the work is split.
func (e *Encoder) fitLevels(src Source, o Options) error {
	var mu sync.Mutex
	var total [fitBins]int64
	failed := firstError{}
	o.parallel()(e.s.Blocks(), func(from, to int) {
		counts := make([]int64, fitBins)
		failed.set(e.countBlocks(src, from, to, counts))
		mu.Lock()
		defer mu.Unlock()
		for i, c := range counts {
			total[i] += c
		}
	})
	if failed.err != nil {
		return failed.err
	}
	e.s.Map = lloyd(total[:], e.s.levels())
	e.search = newLevelSearch(e.s.Map)
	return nil
}

// countBlocks sets the scales of blocks and counts their scaled elements.
func (e *Encoder) countBlocks(src Source, from, to int, counts []int64) error {
	count := func(b int, x []float32) {
		scale := float64(e.s.Absmax[b])
		for _, v := range x {
			if scale > 0 {
				counts[min(int((float64(v)/scale+1)*(fitBins/2)), fitBins-1)]++
			}
		}
	}
	err := e.fitBlocks(src, from, to, func(x []float32, first, lo int) error {
		for b := first; len(x) > 0; b++ {
			_, hi := e.s.Span(b)
			count(b, x[:hi-lo])
			x, lo = x[hi-lo:], hi
		}
		return nil
	})
	if err != nil {
		return err
	}
	buffer := make([]float32, piece)
	for b := from; b < to; b++ {
		if lo, hi := e.s.Span(b); hi-lo <= piece {
			continue
		}
		err := eachPiece(src, e.s, b, buffer, func(x []float32, _ int) error {
			count(b, x)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lloyd moves each value but 0 to the mean of what is nearest to it until nothing moves. A value that nothing is nearest to stays.
func lloyd(counts []int64, start []float32) []float32 {
	levels := make([]float64, len(start))
	for i, v := range start {
		levels[i] = float64(v)
	}
	for range 200 {
		sum, weight := make([]float64, len(levels)), make([]float64, len(levels))
		k := 0
		for i, c := range counts {
			x := (float64(i)+0.5)/(fitBins/2) - 1
			for k+1 < len(levels) && x > (levels[k]+levels[k+1])/2 {
				k++
			}
			sum[k] += x * float64(c)
			weight[k] += float64(c)
		}
		moved := 0.0
		for k := range levels {
			if weight[k] > 0 && start[k] != 0 {
				moved = max(moved, math.Abs(sum[k]/weight[k]-levels[k]))
				levels[k] = sum[k] / weight[k]
			}
		}
		if moved < 1e-7 {
			break
		}
	}
	out := make([]float32, len(levels))
	for i, v := range levels {
		out[i] = float32(v)
	}
	slices.Sort(out)
	return out
}
