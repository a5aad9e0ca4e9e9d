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

// middles are the values between neighbours, exact.
func middles(levels []float32) []float64 {
	m := make([]float64, len(levels)-1)
	for i := range m {
		m[i] = (float64(levels[i]) + float64(levels[i+1])) / 2
	}
	return m
}

// nearestLevel is the nearest of ascending levels by their middles; a tie goes to the even code.
func nearestLevel(middles []float64, q float64) uint8 {
	k, tie := slices.BinarySearch(middles, q)
	if tie && k%2 == 1 {
		k++
	}
	return uint8(k)
}

// fitBins is how finely values over [-1, 1] are counted to fit a table.
const fitBins = 1 << 13

// fitLevels finds the table of 2^bits values that minimises the mean squared error of the blocks' scaled elements: Lloyd's iteration
// (Lloyd 1982) in float64 on a histogram, from the quantiles of the normal distribution. The outcome does not depend on how the work is
// split.
func (e *Encoder) fitLevels(src Source, o Options) error {
	var mu sync.Mutex
	var total [fitBins]int64
	failed := firstError{}
	o.parallel()(e.s.Blocks(), func(from, to int) {
		buffer, counts := make([]float32, piece), make([]int64, fitBins)
		for b := from; b < to && !failed.set(e.countBlock(src, b, buffer, counts)); b++ {
		}
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
	e.middles = middles(e.s.Map)
	return nil
}

// countBlock sets the scale of a block and counts its scaled elements.
func (e *Encoder) countBlock(src Source, b int, buffer []float32, counts []int64) error {
	if err := e.fitBlock(src, b, buffer); err != nil {
		return err
	}
	lo, hi := e.s.Span(b)
	scale := e.s.Absmax[b]
	for at := lo; at < hi && scale > 0; at += len(buffer) {
		x := buffer[:min(len(buffer), hi-at)]
		if err := src.Read(x, at); err != nil {
			return err
		}
		for _, v := range x {
			counts[min(int((float64(v)/float64(scale)+1)*(fitBins/2)), fitBins-1)]++
		}
	}
	return nil
}

// lloyd moves each value to the mean of what is nearest to it until nothing moves. A value that nothing is nearest to stays.
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
			if weight[k] > 0 {
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
