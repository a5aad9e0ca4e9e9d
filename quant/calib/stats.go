package calib

import (
	"container/heap"
	"fmt"
	"math"
	"slices"
)

// ChannelStats gathers what SmoothQuant, AWQ and Wanda ask of each channel of an activation. Memory is a few numbers a channel.
type ChannelStats struct {
	n        int64
	max      []float32
	sumAbs   []float64
	squares  []float64
	min, top []float32
}

// NewChannelStats returns empty statistics of cols channels.
func NewChannelStats(cols int) *ChannelStats {
	return &ChannelStats{max: make([]float32, cols), sumAbs: make([]float64, cols), squares: make([]float64, cols),
		min: make([]float32, cols), top: make([]float32, cols)}
}

// Add adds the rows of x. NaN and infinities are refused and leave the statistics as they were.
func (c *ChannelStats) Add(x Matrix) error {
	if x.Rows == 0 {
		return nil
	}
	if err := x.check("samples"); err != nil {
		return err
	}
	if x.Cols != len(c.max) {
		return fmt.Errorf("calib: samples have %d columns, the statistics %d", x.Cols, len(c.max))
	}
	for t := range x.Rows {
		first := c.n == 0 && t == 0
		for j, v := range x.Row(t) {
			a := float32(math.Abs(float64(v)))
			c.max[j] = max(c.max[j], a)
			c.sumAbs[j] += float64(a)
			c.squares[j] += float64(float64(a) * float64(a))
			if first {
				c.min[j], c.top[j] = v, v
			}
			c.min[j], c.top[j] = min(c.min[j], v), max(c.top[j], v)
		}
	}
	c.n += int64(x.Rows)
	return nil
}

// Merge adds the samples of o.
func (c *ChannelStats) Merge(o *ChannelStats) error {
	if len(o.max) != len(c.max) {
		return fmt.Errorf("calib: statistics of %d channels cannot take in those of %d", len(c.max), len(o.max))
	}
	for j := range c.max {
		c.max[j] = max(c.max[j], o.max[j])
		c.sumAbs[j] += o.sumAbs[j]
		c.squares[j] += o.squares[j]
		switch {
		case c.n == 0:
			c.min[j], c.top[j] = o.min[j], o.top[j]
		case o.n > 0:
			c.min[j], c.top[j] = min(c.min[j], o.min[j]), max(c.top[j], o.top[j])
		}
	}
	c.n += o.n
	return nil
}

// Samples is the number of rows seen.
func (c *ChannelStats) Samples() int64 { return c.n }

// AbsMax is the largest magnitude of each channel.
func (c *ChannelStats) AbsMax() []float32 { return slices.Clone(c.max) }

// MeanAbs is the mean magnitude of each channel.
func (c *ChannelStats) MeanAbs() []float32 {
	out := make([]float32, len(c.sumAbs))
	for j, s := range c.sumAbs {
		out[j] = float32(s / float64(max(c.n, 1)))
	}
	return out
}

// Norms is the Euclidean norm of each channel over all samples.
func (c *ChannelStats) Norms() []float32 {
	out := make([]float32, len(c.squares))
	for j, s := range c.squares {
		out[j] = float32(math.Sqrt(s))
	}
	return out
}

// Ranges are the extremes of each channel, widened to contain 0.
func (c *ChannelStats) Ranges() []Range {
	out := make([]Range, len(c.min))
	for j := range out {
		out[j] = rangeOf(c.min[j], c.top[j])
	}
	return out
}

// Channels is an Observer for each column of samples (tokens, cols).
type Channels struct{ cols []Observer }

// NewChannels makes cols observers.
func NewChannels(cols int, each func() (Observer, error)) (*Channels, error) {
	if cols < 1 || each == nil {
		return nil, fmt.Errorf("calib: observers of %d channels: at least one, and a function that makes one, are needed", cols)
	}
	c := &Channels{cols: make([]Observer, cols)}
	for j := range c.cols {
		var err error
		if c.cols[j], err = each(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Observe adds a batch: each column to its observer.
func (c *Channels) Observe(x Matrix) error {
	if x.Rows == 0 {
		return nil
	}
	if err := x.check("samples"); err != nil {
		return err
	}
	if x.Cols != len(c.cols) {
		return fmt.Errorf("calib: samples have %d columns, the observers %d", x.Cols, len(c.cols))
	}
	col := make([]float32, x.Rows)
	for j, o := range c.cols {
		for t := range col {
			col[t] = x.Data[t*x.Cols+j]
		}
		if err := o.Observe(col); err != nil {
			return err
		}
	}
	return nil
}

// Merge adds what o saw.
func (c *Channels) Merge(o *Channels) error {
	if len(o.cols) != len(c.cols) {
		return fmt.Errorf("calib: observers of %d channels cannot take in those of %d", len(c.cols), len(o.cols))
	}
	for j, x := range c.cols {
		if err := x.Merge(o.cols[j]); err != nil {
			return err
		}
	}
	return nil
}

// Ranges returns the interval of each channel.
func (c *Channels) Ranges() ([]Range, error) {
	out := make([]Range, len(c.cols))
	for j, o := range c.cols {
		var err error
		if out[j], err = o.Range(); err != nil {
			return nil, fmt.Errorf("channel %d: %w", j, err)
		}
	}
	return out, nil
}

// Reservoir keeps a uniform sample of the rows that pass by: those whose keyed hash is smallest, so that the same rows give the same
// sample however they are cut into batches. Memory is limit rows.
type Reservoir struct {
	cols, limit int
	seed        uint64
	seen        uint64
	kept        hashed
}

type hashedRow struct {
	hash uint64
	row  []float32
}

// hashed is a heap with the largest hash on top.
type hashed []hashedRow

func (h hashed) Len() int           { return len(h) }
func (h hashed) Less(i, j int) bool { return h[i].hash > h[j].hash }
func (h hashed) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *hashed) Push(x any)        { *h = append(*h, x.(hashedRow)) }
func (h *hashed) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// NewReservoir keeps at most limit rows of cols values. Reservoirs that are to be merged take different seeds.
func NewReservoir(cols, limit int, seed uint64) *Reservoir {
	return &Reservoir{cols: cols, limit: max(limit, 1), seed: seed}
}

// Add offers the rows of x.
func (r *Reservoir) Add(x Matrix) error {
	if x.Rows == 0 {
		return nil
	}
	if err := x.check("samples"); err != nil {
		return err
	}
	if x.Cols != r.cols {
		return fmt.Errorf("calib: samples have %d columns, the reservoir %d", x.Cols, r.cols)
	}
	for t := range x.Rows {
		r.offer(mix(r.seed, r.seen), x.Row(t))
		r.seen++
	}
	return nil
}

func (r *Reservoir) offer(hash uint64, row []float32) {
	if len(r.kept) < r.limit {
		heap.Push(&r.kept, hashedRow{hash, slices.Clone(row)})
	} else if hash < r.kept[0].hash {
		copy(r.kept[0].row, row)
		r.kept[0].hash = hash
		heap.Fix(&r.kept, 0)
	}
}

// Merge offers what o kept.
func (r *Reservoir) Merge(o *Reservoir) error {
	if o.cols != r.cols {
		return fmt.Errorf("calib: a reservoir of %d columns cannot take in one of %d", r.cols, o.cols)
	}
	for _, k := range o.kept {
		r.offer(k.hash, k.row)
	}
	r.seen += o.seen
	return nil
}

// Matrix returns the rows kept.
func (r *Reservoir) Matrix() Matrix {
	rows := slices.Clone(r.kept)
	slices.SortFunc(rows, func(a, b hashedRow) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return 0
	})
	m := NewMatrix(len(rows), r.cols)
	for i, k := range rows {
		copy(m.Row(i), k.row)
	}
	return m
}

// mix is the finalizer of SplitMix64 (Steele et al. 2014) over a seed and a counter.
func mix(seed, i uint64) uint64 {
	z := seed + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
