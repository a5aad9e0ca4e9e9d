package gguf

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// everyKind has a value of each type.
var everyKind = []KV{
	{"general.architecture", "llama"}, {"b", true}, {"a", uint8(200)}, {"i8", int8(-3)}, {"u16", uint16(65535)}, {"i16", int16(-300)},
	{"u32", uint32(1 << 31)}, {"i32", int32(-1 << 31)}, {"u64", uint64(1 << 63)}, {"i64", int64(-1 << 63)}, {"f32", float32(0.1)}, {"f64", 0.1},
	{"texts", []string{"", "Ġa", "b\x00c", "\xff"}}, {"none", []string{}}, {"f32s", []float32{1, -2}}, {"i32s", []int32{1, -2}},
	{"bools", []bool{true, false}}, {"u8s", []uint8{1}}, {"i8s", []int8{-1}}, {"u16s", []uint16{1}}, {"i16s", []int16{-1}},
	{"u32s", []uint32{1}}, {"u64s", []uint64{1}}, {"i64s", []int64{-1}}, {"f64s", []float64{2}},
}

// write makes a file of the given tensors with normal elements and returns them.
func write(t testing.TB, fsys vfs.FS, path string, kvs []KV, specs []Spec) map[string][]float32 {
	t.Helper()
	w, err := NewWriter(fsys, path, kvs, specs)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	out := map[string][]float32{}
	for _, s := range specs {
		x := make([]float32, s.Shape.Size())
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		require.NoError(t, w.WriteFloats(s.Name, x))
		out[s.Name] = x
	}
	require.NoError(t, w.Commit())
	return out
}

func TestRoundTrip(t *testing.T) {
	m := faultfs.New()
	specs := []Spec{
		{"odd", ggml.F16, tensor.S(3, 5)}, {"empty", ggml.F32, tensor.S(0, 4)}, {"q8", ggml.Q8_0, tensor.S(7, 96)}, {"scalar", ggml.F32, tensor.S()},
		{"q4", ggml.Q4_1, tensor.S(2, 3, 64)}, {"bf", ggml.BF16, tensor.S(9)},
	}
	for _, align := range []uint32{0, 8, 256} {
		kvs := everyKind
		if align > 0 {
			kvs = append(kvs[:len(kvs):len(kvs)], KV{"general.alignment", align})
		}
		want := write(t, m, "/f.gguf", kvs, specs)
		f, err := Open(m, "/f.gguf")
		require.NoError(t, err)
		require.Equal(t, kvs, f.Metadata())
		for i, info := range f.Tensors() {
			require.Equal(t, specs[i], Spec{info.Name, info.Type, info.Shape})
			require.Zero(t, info.Offset%f.Alignment())
			decoded(t, f, info, want[info.Name])
		}
		require.NoError(t, f.Close())
	}
}

// decoded compares all ways of reading a tensor with decoding its blocks at once.
func decoded(t *testing.T, f *File, info Info, x []float32) {
	t.Helper()
	raw := make([]byte, info.Bytes)
	require.NoError(t, f.ReadRaw(info.Name, 0, raw))
	coded := make([]byte, info.Bytes)
	require.NoError(t, ggml.Encode(coded, x, info.Type))
	require.Equal(t, coded, raw)
	want := make([]float32, len(x))
	require.NoError(t, ggml.Decode(want, raw, info.Type))
	read, err := f.Read(info.Name)
	require.NoError(t, err)
	wide, err := read.Convert(tensor.F32)
	require.NoError(t, err)
	require.Equal(t, append([]float32(nil), want...), append([]float32(nil), tensor.Data[float32](wide)...))
	typ, ok := f.Type(info.Name)
	require.True(t, ok)
	require.Equal(t, read.Type(), typ)
	for lo := 0; lo < len(want); lo += 11 {
		part := make([]float32, min(47, len(want)-lo))
		require.NoError(t, f.Decode(info.Name, part, lo))
		require.Equal(t, want[lo:lo+len(part)], part)
		b := make([]byte, min(51, len(read.Bytes())-lo))
		require.NoError(t, f.ReadInto(info.Name, int64(lo), b))
		require.Equal(t, read.Bytes()[lo:lo+len(b)], b)
	}
	require.Error(t, f.Decode(info.Name, make([]float32, len(want)+1), 0))
	require.Error(t, f.ReadInto(info.Name, -1, nil))
}

// corrupt holds changes to a sound file, and what the error says.
var corrupt = []struct {
	name string
	edit func(b []byte) []byte
	want string
}{
	{"magic", func(b []byte) []byte { b[0] = 'X'; return b }, "begins with"},
	{"version 1", func(b []byte) []byte { b[4] = 1; return b }, "version 1"},
	{"version 9", func(b []byte) []byte { b[4] = 9; return b }, "version 9"},
	{"big-endian", func(b []byte) []byte { b[4], b[7] = 0, 3; return b }, "big-endian"},
	{"tensor count", func(b []byte) []byte { b[14] = 1; return b }, "tensors: more than"},
	{"entry count", func(b []byte) []byte { b[23] = 0x7f; return b }, "entries of metadata"},
	{"key length", func(b []byte) []byte { b[30] = 1; return b }, "at most 65535"},
	{"short", func(b []byte) []byte { return b[:10] }, "too few"},
	{"cut", func(b []byte) []byte { return b[:len(b)-40] }, "cut short"},
	{"header cut", func(b []byte) []byte { return b[:100] }, "cut short"},
	{"extent", after("w", 4, 0xff), "rows of"},
	{"huge extent", after("w", 19, 0x40), "more elements than a file can hold"},
	{"rank", after("w", 0, 5), "5 axes"},
	{"type", after("w", 20, 99), "unknown"},
	{"offset", after("w", 24, 32), "belong at 0"},
}

// after changes the byte at a distance from the end of the last occurrence of a tensor's name in the header.
func after(name string, distance int, v byte) func([]byte) []byte {
	text := append(binary.LittleEndian.AppendUint64(nil, uint64(len(name))), name...)
	return func(b []byte) []byte { b[bytes.Index(b, text)+len(text)+distance] = v; return b }
}

func sound(t testing.TB) []byte {
	m := faultfs.New()
	write(t, m, "/f", []KV{{"k", "v"}}, []Spec{{"w", ggml.Q4_0, tensor.S(2, 32)}, {"x", ggml.F32, tensor.S(2)}})
	b, err := vfs.ReadFile(m, "/f", 1<<20)
	require.NoError(t, err)
	return b
}

func TestCorrupt(t *testing.T) {
	for _, c := range corrupt {
		t.Run(c.name, func(t *testing.T) {
			m := faultfs.New()
			require.NoError(t, vfs.WriteFile(m, "/bad.gguf", c.edit(sound(t))))
			_, err := Open(m, "/bad.gguf")
			require.ErrorIs(t, err, checkpoint.ErrFormat)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "/bad.gguf")
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	m := faultfs.New()
	for want, c := range map[string]struct {
		kvs   []KV
		specs []Spec
	}{
		"given twice":       {kvs: []KV{{"a", "1"}, {"a", "2"}}},
		"Go type int":       {kvs: []KV{{"a", 1}}},
		"a power of two":    {kvs: []KV{{"general.alignment", uint32(24)}}},
		"given once":        {specs: []Spec{{"a", ggml.F32, tensor.S(1)}, {"a", ggml.F32, tensor.S(1)}}},
		"of 1 to 63 bytes":  {specs: []Spec{{string(make([]byte, 64)), ggml.F32, tensor.S(1)}}},
		"no whole number":   {specs: []Spec{{"a", ggml.Q4_0, tensor.S(33)}}},
		"at most 4":         {specs: []Spec{{"a", ggml.F32, tensor.S(1, 1, 1, 1, 1)}}},
		"format 77 unknown": {specs: []Spec{{"a", 77, tensor.S(1)}}},
	} {
		_, err := NewWriter(m, "/w", c.kvs, c.specs)
		if want == "format 77 unknown" {
			want = "format 77 is unknown"
		}
		require.ErrorContains(t, err, want)
	}
	w, err := NewWriter(m, "/w", nil, []Spec{{"a", ggml.F32, tensor.S(2)}})
	require.NoError(t, err)
	require.ErrorContains(t, w.WriteFloats("b", []float32{1}), "not the next one")
	require.NoError(t, w.WriteFloats("a", []float32{1}))
	require.ErrorContains(t, w.Commit(), "not complete: 4 of 8 bytes")
	_, err = m.Stat("/w")
	require.ErrorIs(t, err, fs.ErrNotExist)
	w, err = NewWriter(m, "/w", nil, []Spec{{"a", ggml.F32, tensor.S(2)}})
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 9))
	require.ErrorContains(t, err, "1 bytes more")
	w.Abort()
}

// What the reader accepts can be read whole and is the same when it is written and read again.
func FuzzOpen(f *testing.F) {
	f.Add(sound(f))
	for _, c := range corrupt {
		f.Add(c.edit(sound(f)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := faultfs.New()
		require.NoError(t, vfs.WriteFile(m, "/f", data))
		file, err := Open(m, "/f")
		if err != nil {
			require.ErrorIs(t, err, checkpoint.ErrFormat)
			return
		}
		var specs []Spec
		for _, info := range file.Tensors() {
			if len(info.Name) > maxWrittenName {
				return
			}
			specs = append(specs, Spec{info.Name, info.Type, info.Shape})
			if _, err := file.Read(info.Name); err != nil {
				require.ErrorIs(t, err, checkpoint.ErrFormat)
			}
		}
		w, err := NewWriter(m, "/g", file.Metadata(), specs)
		require.NoError(t, err)
		for _, info := range file.Tensors() {
			raw := make([]byte, info.Bytes)
			require.NoError(t, file.ReadRaw(info.Name, 0, raw))
			_, err := w.Write(raw)
			require.NoError(t, err)
		}
		require.NoError(t, w.Commit())
		again, err := Open(m, "/g")
		require.NoError(t, err)
		require.Len(t, again.Metadata(), len(file.Metadata()))
		require.Len(t, again.Tensors(), len(specs))
	})
}

// TestGoldenGGUF opens every file that lies in the reference data and reads all its tensors.
func TestGoldenGGUF(t *testing.T) {
	n := 0
	require.NoError(t, filepath.WalkDir(golden.Dir(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".gguf" {
			return err
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := Open(vfs.OS{}, path)
			require.NoError(t, err)
			for _, info := range f.Tensors() {
				_, err := f.Read(info.Name)
				require.NoError(t, err)
			}
			t.Logf("version %d, %d entries, %d tensors", f.Version(), len(f.Metadata()), len(f.Tensors()))
			require.NoError(t, f.Close())
		})
		n++
		return nil
	}))
	t.Logf("%d files", n)
}

// A fault at every operation of an overwrite leaves the old or the new file, whole.
func TestWriteEveryFault(t *testing.T) {
	make2 := func(m *faultfs.FS, v float32) error {
		w, err := NewWriter(m, "/d/f", nil, []Spec{{"w", ggml.F32, tensor.S(1)}, {"x", ggml.F32, tensor.S(1)}})
		if err != nil {
			return err
		}
		for _, name := range []string{"w", "x"} {
			if err := w.WriteFloats(name, []float32{v}); err != nil {
				w.Abort()
				return err
			}
		}
		return w.Commit()
	}
	base := faultfs.New()
	require.NoError(t, vfs.MkdirDurable(base, "/d"))
	require.NoError(t, make2(base, 1))
	count := base.Clone()
	require.NoError(t, make2(count, 2))
	for at := 1; at <= count.Ops(); at++ {
		for kind := faultfs.Crash; kind <= faultfs.ShortWrite; kind++ {
			for seed := range uint64(4) {
				m := base.Clone()
				m.Arm(faultfs.Fault{At: at, Kind: kind})
				err := make2(m, 2)
				if err != nil {
					require.ErrorIs(t, err, checkpoint.ErrDisk)
				}
				m.Restart(min(faultfs.Disk(seed), faultfs.Torn), seed)
				f, oerr := Open(m, "/d/f")
				require.NoError(t, oerr, "op %d %v seed %d", at, kind, seed)
				x, oerr := f.Read("x")
				require.NoError(t, oerr)
				require.Contains(t, []float64{1, 2}, x.At(0))
				if err == nil {
					require.Equal(t, 2.0, x.At(0))
				}
				require.NoError(t, make2(m, 3), "the next write is not hindered by leftovers")
			}
		}
	}
}
