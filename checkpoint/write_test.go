package checkpoint

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestWriteLayout(t *testing.T) {
	m := memory(t, nil)
	require.NoError(t, WriteSafetensors(m, "/d/f", []Named{
		{"b", tensor.Scalar(uint8(7))}, {"z", f32s(t, []float32{1}, 1)}, {"a", f32s(t, []float32{2}, 1, 1)}, {"q\"\\\x01é<", tensor.Scalar(int64(-1))},
	}, map[string]string{"format": "pt", "a": "x\ny"}))
	b, err := vfs.ReadFile(m, "/d/f", 1<<20)
	require.NoError(t, err)
	header := `{"__metadata__":{"a":"x\ny","format":"pt"},"q\"\\\u0001é<":{"dtype":"I64","shape":[],"data_offsets":[0,8]},` +
		`"a":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]},"z":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},` +
		`"b":{"dtype":"U8","shape":[],"data_offsets":[16,17]}}`
	for len(header)%8 != 0 {
		header += " "
	}
	want := raw(header, 0) + "\xff\xff\xff\xff\xff\xff\xff\xff" + "\x00\x00\x00\x40" + "\x00\x00\x80\x3f" + "\x07"
	require.Equal(t, want, string(b))
}

func TestWriteRefuses(t *testing.T) {
	m := memory(t, nil)
	u8 := tensor.Scalar(uint8(1))
	for _, c := range []struct {
		tensors []Named
		want    string
	}{
		{[]Named{{"a", u8}, {"a", u8}}, "given twice"},
		{[]Named{{"", u8}}, "cannot be the name"},
		{[]Named{{"__metadata__", u8}}, "cannot be the name"},
		{[]Named{{"\xff", u8}}, "cannot be the name"},
		{[]Named{{"a", nil}}, "is nil"},
		{[]Named{{"a", &tensor.Tensor{}}}, "no valid type"},
	} {
		require.ErrorContains(t, WriteSafetensors(m, "/d/f", c.tensors, nil), c.want)
		_, err := m.Stat("/d/f")
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
}

func TestStreaming(t *testing.T) {
	m := memory(t, nil)
	specs := []Spec{{"a", tensor.T(tensor.U8, 3)}, {"e", tensor.T(tensor.U8, 0)}, {"w", tensor.T(tensor.F32, 2)}}
	w, err := NewSafetensorsWriter(m, "/d/f", specs, nil)
	require.NoError(t, err)
	require.Equal(t, "w", w.Order()[0].Name)
	for _, piece := range []string{"01", "2345", "67a", "bc"} {
		n, err := w.Write([]byte(piece))
		require.NoError(t, err)
		require.Equal(t, len(piece), n)
	}
	require.NoError(t, w.Commit())
	require.Error(t, w.Commit())
	f, err := OpenSafetensors(m, "/d/f")
	require.NoError(t, err)
	a, err := f.Read("a")
	require.NoError(t, err)
	require.Equal(t, "abc", string(a.Bytes()))

	mixed := func(write func(w *SafetensorsWriter) error) error {
		w, err := NewSafetensorsWriter(m, "/d/g", specs, nil)
		require.NoError(t, err)
		return errors.Join(write(w), w.Commit())
	}
	wt := f32s(t, []float32{1, 2}, 2)
	require.NoError(t, mixed(func(w *SafetensorsWriter) error {
		_, err := w.Write(wt.Bytes())
		return errors.Join(err, w.WriteTensor("a", a), w.WriteTensor("e", tensor.New(specs[1].Type)))
	}))
	require.ErrorContains(t, mixed(func(w *SafetensorsWriter) error { return w.WriteTensor("a", a) }), "not the next one")
	require.ErrorContains(t, mixed(func(w *SafetensorsWriter) error { return w.WriteTensor("w", a) }), "announced as f32[2]")
	require.ErrorContains(t, mixed(func(w *SafetensorsWriter) error { return w.WriteTensor("w", nil) }), "announced as f32[2]")
	require.ErrorContains(t, mixed(func(w *SafetensorsWriter) error { return w.WriteTensor("w", wt) }), "not complete")
	require.ErrorContains(t, mixed(func(w *SafetensorsWriter) error { _, err := w.Write(make([]byte, 12)); return err }), "more than the tensors hold")
	failure := errors.New("no more tensors")
	require.ErrorIs(t, StreamSafetensors(m, "/d/h", specs, nil, func(Spec) (*tensor.Tensor, error) { return nil, failure }), failure)
	entries, err := m.ReadDir("/d")
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file is left")
}

// A fault at every operation of an overwrite leaves the old or the new file.
func TestWriteEveryFault(t *testing.T) {
	base := memory(t, nil)
	require.NoError(t, WriteSafetensors(base, "/d/f", []Named{{"w", f32s(t, []float32{1}, 1)}}, nil))
	write := func(m *faultfs.FS) error {
		return WriteSafetensors(m, "/d/f", []Named{{"w", f32s(t, []float32{2}, 1)}}, nil)
	}
	count := base.Clone()
	require.NoError(t, write(count))
	ran := 0
	for at := 1; at <= count.Ops(); at++ {
		for kind := faultfs.Crash; kind <= faultfs.ShortWrite; kind++ {
			for seed := range uint64(6) {
				m := base.Clone()
				m.Arm(faultfs.Fault{At: at, Kind: kind})
				err := write(m)
				if err != nil {
					require.ErrorIs(t, err, ErrDisk)
				}
				if kind == faultfs.NoSpace && err != nil {
					require.ErrorIs(t, err, syscall.ENOSPC)
				}
				m.Restart(min(faultfs.Disk(seed), faultfs.Torn), seed)
				f, oerr := OpenSafetensors(m, "/d/f")
				require.NoError(t, oerr, "op %d %v seed %d", at, kind, seed)
				x, oerr := f.Read("w")
				require.NoError(t, oerr)
				if err == nil {
					require.Equal(t, 2.0, x.At(0))
				}
				require.Contains(t, []float64{1, 2}, x.At(0))
				require.NoError(t, write(m), "the next write is not hindered by leftovers")
				ran++
			}
		}
	}
	t.Logf("%d faults over %d operations", ran, count.Ops())
}
