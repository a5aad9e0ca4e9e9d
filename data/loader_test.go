package data

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func drawLoader(t *rapid.T) (*Set, *Loader) {
	seqLen := rapid.IntRange(2, 40).Draw(t, "seq_len")
	set := setOf(seqLen, rapid.SliceOfN(rapid.IntRange(2, seqLen), 1, 40).Draw(t, "lengths"))
	opt := LoaderOptions{
		Batch:   rapid.IntRange(1, 7).Draw(t, "batch"),
		Pack:    rapid.Bool().Draw(t, "pack"),
		Shuffle: rapid.Bool().Draw(t, "shuffle"),
		Seed:    rapid.Uint64().Draw(t, "seed"),
		Epochs:  rapid.IntRange(1, 3).Draw(t, "epochs"),
		PadID:   7,
	}
	opt.MicroBatch = rapid.IntRange(1, opt.Batch).Draw(t, "micro_batch")
	l, err := NewLoader(set, opt)
	if err != nil {
		t.Fatal(err)
	}
	return set, l
}

// Every example appears once an epoch, whole, with its labels, positions and document borders.
func TestLoaderKeepsEveryDocument(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, l := drawLoader(t)
		seen := map[int][]int32{}
		var buf []Batch
		for s := range l.Steps() {
			epoch, _, err := l.Epoch(s)
			require.NoError(t, err)
			buf, err = l.StepInto(s, buf)
			require.NoError(t, err)
			require.Len(t, buf, l.MicroBatches())
			for i := range buf {
				require.Contains(t, l.Buckets(), buf[i].T)
				seen[epoch] = append(seen[epoch], checkBatch(t, set, &buf[i], l.opt.PadID)...)
			}
		}
		require.Len(t, seen, l.opt.Epochs)
		for _, ids := range seen {
			slices.Sort(ids)
			require.Equal(t, set.rows, ids)
		}
	})
}

// checkBatch walks the documents by Cu and returns the samples met.
func checkBatch(t require.TestingT, set *Set, b *Batch, pad int32) []int32 {
	require.Len(t, b.Cu, MaxDocs(b.B, b.T)+1)
	var ids []int32
	targets, docs, held := 0, 0, 0
	for d := 0; d+1 < len(b.Cu); d++ {
		lo, hi := int(b.Cu[d]), int(b.Cu[d+1])
		if lo == hi {
			require.Equal(t, b.B*b.T, hi)
			continue
		}
		docs++
		require.Equal(t, lo/b.T, (hi-1)/b.T, "a document lies in one row")
		id := b.Sample[lo]
		for i := lo; i < hi; i++ {
			require.Equal(t, id, b.Sample[i])
			require.EqualValues(t, i-lo, b.Pos[i])
			require.EqualValues(t, lo%b.T, b.DocStart[i])
			if id == PadSample {
				require.Equal(t, pad, b.Tokens[i])
				require.Equal(t, Ignore, b.Labels[i])
			}
		}
		if id != PadSample {
			at := slices.Index(set.rows, id)
			require.Equal(t, id, set.ID(at))
			e := example(t, set, at)
			require.Equal(t, e.IDs, b.Tokens[lo:hi])
			require.Equal(t, e.Labels, b.Labels[lo:hi])
			ids, held = append(ids, id), held+hi-lo
		}
	}
	checkShift(t, b, &targets)
	require.Equal(t, b.Targets, targets)
	require.Equal(t, b.Real, held)
	require.LessOrEqual(t, docs, MaxDocs(b.B, b.T))
	return ids
}

func checkShift(t require.TestingT, b *Batch, targets *int) {
	tgt := b.Shift(nil)
	for i, v := range tgt {
		last := (i+1)%b.T == 0 || b.Pos[i+1] == 0
		if last {
			require.Equal(t, Ignore, v)
		} else {
			require.Equal(t, b.Labels[i+1], v)
		}
		if v != Ignore {
			*targets++
		}
	}
	in := slices.Clone(b.Labels)
	require.Equal(t, tgt, Shift(in, in, b.DocStart, b.T))
}

// A step is the same whatever was asked before, and from another loader.
func TestLoaderIsStateless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, l := drawLoader(t)
		steps := rapid.SliceOfN(rapid.IntRange(0, l.Steps()-1), 1, 8).Draw(t, "steps")
		var buf []Batch
		for _, s := range steps {
			var err error
			buf, err = l.StepInto(s, buf)
			require.NoError(t, err)
			opt := l.opt
			if rapid.Bool().Draw(t, "by steps") {
				opt.Steps = s + 1
			}
			fresh, err := NewLoader(set, opt)
			require.NoError(t, err)
			want, err := fresh.Step(s)
			require.NoError(t, err)
			require.Equal(t, want, buf)
		}
	})
}

// The trained targets of an epoch, and the examples of an unpacked step, do not depend on how steps are cut.
func TestTargetsDoNotDependOnTheCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, l := drawLoader(t)
		sum := 0
		for s := range l.StepsPerEpoch() {
			step, err := l.Step(s)
			require.NoError(t, err)
			for i := range step {
				sum += step[i].Targets
			}
			if l.opt.Pack {
				continue
			}
			opt := l.opt
			opt.MicroBatch = opt.Batch
			whole, err := NewLoader(set, opt)
			require.NoError(t, err)
			one, err := whole.Step(s)
			require.NoError(t, err)
			require.Equal(t, samples(one), samples(step))
		}
		require.EqualValues(t, set.Report().Trained, sum)
	})
}

// samples lists the examples of a step in order.
func samples(step []Batch) []int32 {
	var out []int32
	for i := range step {
		for j, id := range step[i].Sample {
			if id != PadSample && step[i].Pos[j] == 0 {
				out = append(out, id)
			}
		}
	}
	return out
}

func TestLoaderSteps(t *testing.T) {
	set := setOf(8, []int{2, 3, 4, 5, 6})
	l, err := NewLoader(set, LoaderOptions{Batch: 2, Epochs: 2})
	require.NoError(t, err)
	require.Equal(t, 3, l.StepsPerEpoch())
	require.Equal(t, 6, l.Steps())
	l, err = NewLoader(set, LoaderOptions{Batch: 2, Steps: 100, Shuffle: true})
	require.NoError(t, err)
	require.Equal(t, 100, l.Steps())
	epoch, in, err := l.Epoch(98)
	require.NoError(t, err)
	require.Equal(t, [2]int{32, 2}, [2]int{epoch, in})
	for _, s := range []int{-1, 100} {
		_, err = l.Step(s)
		require.ErrorContains(t, err, "not in [0, 100)")
	}
	require.ErrorContains(t, l.Micro(0, 1, &Batch{}), "micro-batch 1")
}

func TestLoaderOptionErrors(t *testing.T) {
	set := setOf(32, []int{20})
	for says, opt := range map[string]LoaderOptions{
		"load the data with the same": {SeqLen: 16}, "seq_len 1": {SeqLen: 1}, "micro_batch 3": {Batch: 2, MicroBatch: 3},
		"micro_batch -1": {MicroBatch: -1}, "epochs -1": {Epochs: -1}, "steps -1": {Steps: -1}, "buckets [4 8]": {Buckets: []int{8, 4}},
		"buckets [1 32]": {Buckets: []int{1, 32}}, "2^31 tokens": {Batch: 1 << 27},
	} {
		_, err := NewLoader(set, opt)
		require.ErrorContains(t, err, says)
	}
	_, err := NewLoader(nil, LoaderOptions{})
	require.ErrorContains(t, err, "empty")
}

// TestBucketsInUse: only lengths that some row is padded to are there, and a micro-batch without rows has one of them too.
func TestBucketsInUse(t *testing.T) {
	for _, c := range []struct {
		lengths, want []int
		opt           LoaderOptions
	}{
		{[]int{100, 100, 100}, []int{100}, LoaderOptions{}},
		{[]int{99, 33, 40}, []int{64, 100}, LoaderOptions{}},
		{[]int{2, 16, 17, 32}, []int{16, 32}, LoaderOptions{}},
		{[]int{33, 50, 60}, []int{64}, LoaderOptions{Batch: 4, MicroBatch: 1}},
		{[]int{7, 50}, []int{50}, LoaderOptions{Buckets: []int{50, 70, 100}}},
		{[]int{7, 50}, []int{100}, LoaderOptions{Pack: true}},
	} {
		l, err := NewLoader(setOf(100, c.lengths), c.opt)
		require.NoError(t, err)
		require.Equal(t, c.want, l.Buckets())
		batches, err := l.Step(0)
		require.NoError(t, err)
		for i := range batches {
			require.Contains(t, c.want, batches[i].T)
		}
	}
}

func TestDefaultBuckets(t *testing.T) {
	require.Equal(t, []int{16, 32, 64, 128, 256, 512, 1024, 2048}, DefaultBuckets(2048))
	require.Equal(t, []int{64, 128, 256, 512, 1024, 2048, 4096, 5000}, DefaultBuckets(5000))
	require.Equal(t, []int{16, 20}, DefaultBuckets(20))
	require.Equal(t, []int{16}, DefaultBuckets(16))
	require.Equal(t, []int{5}, DefaultBuckets(5))
}

func TestShiftByHand(t *testing.T) {
	const x = Ignore
	labels := []int32{1, 2, 3, x, 5, 6, 7, 8}
	require.Equal(t, []int32{2, 3, x, x, 6, 7, 8, x}, Shift(nil, labels, nil, 4))
	require.Equal(t, []int32{2, x, x, x, 6, 7, 8, x}, Shift(nil, labels, []int32{0, 0, 2, 2, 0, 0, 0, 0}, 4))
	require.Empty(t, Shift(nil, nil, nil, 4))
}

func TestBestFitByHand(t *testing.T) {
	lengths := []int{6, 5, 3, 2, 4, 8}
	p := bestFit([]int32{0, 1, 2, 3, 4, 5}, func(id int32) int { return lengths[id] }, 8)
	var rows [][]int32
	for i := range p.len() {
		rows = append(rows, p.row(i))
	}
	require.Equal(t, [][]int32{{0, 3}, {1, 2}, {4}, {5}}, rows)
}

func TestWeights(t *testing.T) {
	set := setOf(4, []int{2, 2, 2, 2, 3, 3, 3, 3})
	set.st.files = []FileInfo{{Path: "a", Weight: 2}, {Path: "b", Weight: 0.5}}
	for i := 4; i < 8; i++ {
		set.st.docs[i].file = 1
	}
	l, err := NewLoader(set, LoaderOptions{Epochs: 20, Shuffle: true, Batch: 10})
	require.NoError(t, err)
	require.Equal(t, 20, l.Steps())
	chosen := map[string]bool{}
	for s := range l.Steps() {
		step, err := l.Step(s)
		require.NoError(t, err)
		ids := samples(step)
		slices.Sort(ids)
		require.Equal(t, []int32{0, 0, 1, 1, 2, 2, 3, 3}, ids[:8])
		require.Len(t, ids, 10)
		chosen[fmt.Sprint(ids[8:])] = true
	}
	require.Greater(t, len(chosen), 2, "the half differs by epoch")
	_, held, err := set.Split(2, 1)
	require.NoError(t, err)
	l, err = NewLoader(held, LoaderOptions{})
	require.NoError(t, err)
	require.Equal(t, 2, l.Steps(), "held-out rows are seen once")
}

// Few batches of the first epoch break the bounds that a loader gives.
func TestDocumentBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, l := drawLoader(t)
		most, longest := l.DocumentBounds()
		n, padded := l.StepsPerEpoch()*l.MicroBatches(), 0
		for i := range n {
			var b Batch
			require.NoError(t, l.Micro(i/l.MicroBatches(), i%l.MicroBatches(), &b))
			docs := slices.Index(b.Cu, int32(b.B*b.T))
			require.LessOrEqual(t, docs, most)
			over := false
			for d := range docs {
				if n := int(b.Cu[d+1] - b.Cu[d]); longest > 0 && n > longest {
					require.Equal(t, PadSample, b.Sample[b.Cu[d]])
					over = true
				}
			}
			if over {
				padded++
			}
		}
		require.LessOrEqual(t, padded*paddedShare, n)
	})
}

// Packing is known to the token: short documents give a bound far below the row.
func TestDocumentBoundsOfShortDocuments(t *testing.T) {
	lengths := make([]int, 400)
	for i := range lengths {
		lengths[i] = 5 + i%4
	}
	l, err := NewLoader(setOf(64, lengths), LoaderOptions{MicroBatch: 2, Batch: 4, Pack: true})
	require.NoError(t, err)
	most, longest := l.DocumentBounds()
	require.Less(t, most, 2*64/5*5/4+2)
	require.Equal(t, 8, longest)
	l, err = NewLoader(setOf(64, lengths), LoaderOptions{MicroBatch: 3, Batch: 3})
	require.NoError(t, err)
	most, longest = l.DocumentBounds()
	require.Equal(t, []int{6, 0}, []int{most, longest})
}
