package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// bothDevices runs an op on this device, its operands `off` elements into their buffers, and on the processor, and wants the same bytes.
func bothDevices(t *testing.T, op graph.Op, off int, in ...*tensor.Tensor) {
	t.Helper()
	spec := device.Spec{Op: op}
	for _, x := range in {
		spec.In = append(spec.In, x.Type())
	}
	var err error
	spec.Out, err = op.Infer(spec.In)
	require.NoError(t, err)
	ref := cpu.New(cpu.Options{Threads: 1})
	want := launchOn(t, ref, spec, 0, in)
	require.NoError(t, ref.Close())
	for i, got := range launchOn(t, testDevice(t), spec, off, in) {
		require.Equal(t, want[i], got, "output %d of %v", i, op)
	}
}

// launchOn returns the bytes of the outputs.
func launchOn(t *testing.T, d device.Device, spec device.Spec, off int, in []*tensor.Tensor) (out [][]byte) {
	t.Helper()
	s := d.Stream(0)
	place := func(typ tensor.Type) device.Ptr {
		b, err := d.Alloc(typ.Bytes() + 16*int64(off))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b, Off: int64(off * typ.DType.Size())}
	}
	k, err := d.Kernel(spec)
	require.NoError(t, err)
	var ins, outs []device.Ptr
	for _, x := range in {
		p := place(x.Type())
		require.NoError(t, s.Upload(p, x.Bytes()))
		ins = append(ins, p)
	}
	for _, typ := range spec.Out {
		outs = append(outs, place(typ))
	}
	scratch, err := d.Alloc(max(k.Scratch(), 1))
	require.NoError(t, err)
	require.NoError(t, k.Launch(s, ins, outs, device.Ptr{Buf: scratch}))
	for i, typ := range spec.Out {
		b := make([]byte, typ.Bytes())
		require.NoError(t, s.Download(b, outs[i]))
		out = append(out, b)
	}
	require.NoError(t, s.Sync())
	require.NoError(t, scratch.Free())
	return out
}

// numbers is a tensor of small numbers, with NaN, zeros of both signs and infinities if it is special.
func numbers(seed uint64, special bool, d tensor.DType, dims ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(seed, 1))
	x := tensor.New(tensor.T(d, dims...))
	odd := []float64{math.NaN(), 0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1)}
	for i := range x.Type().Size() {
		v := float64(r.IntN(201) - 100)
		if special && r.IntN(9) == 0 {
			v = odd[r.IntN(len(odd))]
		}
		if !d.IsSigned() && !d.IsFloat() {
			v = math.Abs(v)
		}
		x.Set(i, v)
	}
	return x
}

func positions(seed uint64, n, m int, dims ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(seed, 2))
	x := tensor.New(tensor.T(tensor.I32, dims...))
	for i := range x.Type().Size() {
		x.Set(i, float64(r.IntN(m)+n))
	}
	return x
}

// TestMoves: units of every size, tiles with edges, operands that are aligned to their elements only.
func TestMoves(t *testing.T) {
	perm := func(p ...int8) ops.Permute {
		o := ops.Permute{Rank: int8(len(p))}
		copy(o.Perm[:], p)
		return o
	}
	for _, dt := range []tensor.DType{tensor.U8, tensor.BF16, tensor.F32, tensor.F64} {
		for _, off := range []int{0, 1, 4} {
			t.Run(fmt.Sprint(dt, off), func(t *testing.T) {
				bothDevices(t, perm(1, 0), off, numbers(1, false, dt, 70, 131))
				bothDevices(t, perm(1, 0), off, numbers(1, false, dt, 68, 132)) // words of several elements
				bothDevices(t, perm(0, 2, 1), off, numbers(1, false, dt, 3, 136, 4))
				bothDevices(t, perm(2, 1, 0), off, numbers(2, false, dt, 33, 5, 40))
				bothDevices(t, perm(0, 2, 1, 3), off, numbers(3, false, dt, 2, 9, 3, 16))
				bothDevices(t, perm(3, 1, 0, 2), off, numbers(4, false, dt, 6, 3, 7, 5))
				bothDevices(t, ops.Expand{Shape: tensor.T(dt, 3, 5, 64).Shape}, off, numbers(5, false, dt, 5, 1))
				bothDevices(t, ops.Expand{Shape: tensor.T(dt, 7, 64).Shape}, off, numbers(5, false, dt, 64))
				bothDevices(t, ops.SliceAxis{Axis: 1, Start: 8, End: 40, Step: 1}, off, numbers(6, false, dt, 9, 48))
				bothDevices(t, ops.SliceAxis{Axis: 0, Start: 1, End: 8, Step: 3}, off, numbers(7, false, dt, 9, 32))
				bothDevices(t, ops.Pad{Axis: 1, Lo: 16, Hi: 3, Val: 5}, off, numbers(8, false, dt, 5, 32))
				bothDevices(t, ops.Join{Axis: 1}, off, numbers(9, false, dt, 3, 16), numbers(9, false, dt, 3, 5), numbers(9, false, dt, 3, 32))
			})
		}
	}
}

// TestRowsByIndex: long and short rows, indices outside the table, many indices at one place, in every order of a scatter.
func TestRowsByIndex(t *testing.T) {
	for _, width := range []int{1, 7, 64, 300} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.I8, tensor.U64} {
			t.Run(fmt.Sprint(dt, width), func(t *testing.T) {
				bothDevices(t, ops.GatherRows{}, 0, numbers(1, false, dt, 40, width), positions(1, -2, 44, 5, 9))
				bothDevices(t, ops.GatherRows{Axis: 1}, 1, numbers(1, false, dt, 3, 40, width), positions(1, -2, 44, 17))
				bothDevices(t, ops.ScatterAddRows{Axis: 0, Size: 20}, 0, numbers(2, false, dt, 700, width), positions(2, -1, 22, 700))
				bothDevices(t, ops.ScatterAddRows{Axis: 1, Size: 6}, 1, numbers(2, false, dt, 2, 90, width), positions(2, -1, 8, 90))
				for _, kind := range []ops.ScatterKind{ops.ScatterSet, ops.ScatterSum, ops.ScatterMax, ops.ScatterMin} {
					bothDevices(t, ops.ScatterRows{Kind: kind}, 1, numbers(3, false, dt, 30, width), positions(3, -1, 33, 400), numbers(4, false, dt, 400, width))
				}
			})
		}
	}
}

// TestTableSums: a table of few and of many rows for its owners, rows that many or all positions name, and more positions than a list has room for.
func TestTableSums(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		for _, width := range []int{1, 5, 32, 520} {
			t.Run(fmt.Sprint(dt, width), func(t *testing.T) {
				bothDevices(t, ops.ScatterAddRows{Size: 1300}, 0, numbers(2, false, dt, 900, width), positions(2, -20, 1400, 900))
				bothDevices(t, ops.ScatterAddRows{Size: 700}, 1, numbers(3, false, dt, 600, width), positions(3, 250, 9, 600))
				bothDevices(t, ops.ScatterAddRows{Size: 700}, 0, numbers(4, false, dt, 300, width), positions(4, 250, 1, 300))
			})
		}
	}
	d := testDevice(t)
	few, err := d.newTableSum(tensor.T(tensor.F32, 9, 4), tensor.T(tensor.I32, 20), 4)
	require.NoError(t, err)
	require.NotNil(t, few)
	many, err := d.newTableSum(tensor.T(tensor.F32, 9, 4), tensor.T(tensor.I32, d.SharedMax()/4), 4)
	require.NoError(t, err)
	require.Nil(t, many)
	bothDevices(t, ops.ScatterAddRows{Size: 40}, 0, numbers(2, false, tensor.F32, d.SharedMax()/4, 3), positions(2, -1, 42, d.SharedMax()/4))
}

// TestLongSort: lanes that do not fit a block, several of them, in both directions, with what has no order among equals.
func TestLongSort(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.F64, tensor.I64} {
		for _, down := range []bool{false, true} {
			bothDevices(t, ops.SortOp{Axis: 1, K: 5000, Descending: down}, 0, numbers(1, dt.IsFloat(), dt, 3, 5000))
			bothDevices(t, ops.SortOp{Axis: 0, K: 100, Descending: down}, 0, numbers(2, dt.IsFloat(), dt, 2500, 2))
			bothDevices(t, ops.SortOp{Axis: 1, K: 2048, Descending: down}, 0, numbers(3, dt.IsFloat(), dt, 2, 2048))
		}
	}
}

// TestSortInBatches: lanes side by side are sorted as many at a time as there is room for.
func TestSortInBatches(t *testing.T) {
	op, x := ops.SortOp{Axis: 1, K: 300}, numbers(4, true, tensor.F32, 2, 2500, 3)
	out, err := op.Infer([]tensor.Type{x.Type()})
	require.NoError(t, err)
	ref := cpu.New(cpu.Options{Threads: 1})
	want := kernelRun{op: op, in: []*tensor.Tensor{x}, out: out}.run(t, ref, nil)
	t.Cleanup(func() { require.NoError(t, ref.Close()) })
	const lane = 12 * 4096
	for _, lanes := range []int64{1, 4, 6} {
		got := kernelRun{op: op, in: []*tensor.Tensor{x}, out: out}.run(t, testDevice(t), func(s device.Spec) (device.Kernel, error) {
			k, err := buildSort(testDevice(t), op, s, lanes*lane)
			require.NoError(t, err)
			require.Equal(t, lanes*lane, k.ScratchBytes)
			return k.bind(testDevice(t), s), nil
		})
		for i := range want {
			require.Equal(t, want[i].Bytes(), got[i].Bytes(), "output %d, %d lanes at a time", i, lanes)
		}
	}
}

func TestGroupByExpertLarge(t *testing.T) {
	bothDevices(t, ops.GroupByExpert{Experts: 60}, 0, positions(1, -1, 63, 900, 8))
	bothDevices(t, ops.GroupByExpert{Experts: 3}, 0, positions(1, 1, 1, 5))
}
