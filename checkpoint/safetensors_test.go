package checkpoint

import (
	"encoding/binary"
	"fmt"
	"path"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// memory returns a file system that holds these files.
func memory(t testing.TB, files map[string]string) *faultfs.FS {
	t.Helper()
	m := faultfs.New()
	require.NoError(t, m.MkdirAll("/d"))
	require.NoError(t, m.SyncDir("/"))
	for name, data := range files {
		require.NoError(t, m.MkdirAll(path.Dir("/d/"+name)))
		require.NoError(t, vfs.WriteFile(m, "/d/"+name, []byte(data)))
	}
	require.NoError(t, m.SyncDir("/d"))
	return m
}

// raw joins a header and n bytes of data to a file.
func raw(header string, n int) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("\x01", n)
}

func f32s(t testing.TB, vals []float32, dims ...int) *tensor.Tensor {
	t.Helper()
	out, err := tensor.Of(vals, dims...)
	require.NoError(t, err)
	return out
}

func ten(dtype, shape, offsets string) string {
	return fmt.Sprintf(`{"dtype":%q,"shape":[%s],"data_offsets":[%s]}`, dtype, shape, offsets)
}

var malformed = []struct{ name, data, want string }{
	{"empty", "", "too few"},
	{"seven bytes", "1234567", "too few"},
	{"header beyond limit", "\x01\xe1\xf5\x05\x00\x00\x00\x00{}", "limit is 100000000"},
	{"header length 2^64-1", "\xff\xff\xff\xff\xff\xff\xff\xff{}", "limit is 100000000"},
	{"truncated header", raw(`{}`, 0)[:9], "cut short"},
	{"empty header", raw("", 0), "begin with '{'"},
	{"leading space", raw(" {}", 0), "begin with '{'"},
	{"array", raw("[]", 0), "begin with '{'"},
	{"not closed", raw(`{`, 0), "found the end"},
	{"second value", raw(`{}{}`, 0), "expected the end"},
	{"trailing data", raw(`{}`, 3), "3 bytes follow"},
	{"truncated data", raw(`{"a":`+ten("F32", "2", "0,8")+`}`, 4), `tensor "a": its data end at offset 8, the file holds 4`},
	{"oversized data", raw(`{"a":`+ten("F32", "2", "0,8")+`}`, 12), "4 bytes follow"},
	{"overlap", raw(`{"a":`+ten("U8", "4", "0,4")+`,"b":`+ten("U8", "4", "2,6")+`}`, 6), `tensor "b": its data at offset 2 overlap those of "a"`},
	{"same offsets", raw(`{"a":`+ten("U8", "4", "0,4")+`,"b":`+ten("U8", "4", "0,4")+`}`, 4), "overlap"},
	{"hole", raw(`{"a":`+ten("U8", "2", "0,2")+`,"b":`+ten("U8", "2", "4,6")+`}`, 6), `tensor "b": a hole of 2 bytes`},
	{"hole at start", raw(`{"a":`+ten("U8", "2", "1,3")+`}`, 3), "a hole of 1 bytes"},
	{"duplicate tensor", raw(`{"a":`+ten("U8", "1", "0,1")+`,"a":`+ten("U8", "1", "1,2")+`}`, 2), "occurs twice"},
	{"duplicate by escape", raw(`{"a":`+ten("U8", "1", "0,1")+`,"\u0061":`+ten("U8", "1", "1,2")+`}`, 2), "occurs twice"},
	{"duplicate field", raw(`{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1), "dtype occurs twice"},
	{"duplicate metadata", raw(`{"__metadata__":{"a":"1","a":"2"}}`, 0), "occurs twice"},
	{"two metadata", raw(`{"__metadata__":{},"__metadata__":{}}`, 0), "occurs twice"},
	{"metadata not text", raw(`{"__metadata__":{"a":1}}`, 0), "expected '\"'"},
	{"metadata null", raw(`{"__metadata__":null}`, 0), "expected '{'"},
	{"key case", raw(`{"a":{"DTYPE":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "unknown field"},
	{"unknown field", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}`, 1), "unknown field"},
	{"missing field", raw(`{"a":{"dtype":"U8","shape":[1]}}`, 1), "needs dtype, shape and data_offsets"},
	{"unknown dtype", raw(`{"a":`+ten("F99", "1", "0,1")+`}`, 1), `dtype "F99" is unknown`},
	{"lower case dtype", raw(`{"a":`+ten("f32", "1", "0,4")+`}`, 4), "unknown"},
	{"fp8 size", raw(`{"a":`+ten("F8_E4M3", "2", "0,1")+`}`, 1), "F8_E4M3[2] needs 2 bytes"},
	{"fp4 half a byte", raw(`{"a":`+ten("F4", "3", "0,1")+`}`, 1), "whole number of bytes"},
	{"fp4 overflow", raw(`{"a":`+ten("F4", "9223372036854775807", "0,1")+`}`, 1), "whole number of bytes"},
	{"negative extent", raw(`{"a":`+ten("U8", "-1", "0,1")+`}`, 1), "not negative"},
	{"fraction", raw(`{"a":`+ten("U8", "1.0", "0,1")+`}`, 1), "whole number"},
	{"exponent", raw(`{"a":`+ten("U8", "1e0", "0,1")+`}`, 1), "whole number"},
	{"leading zero", raw(`{"a":`+ten("U8", "01", "0,1")+`}`, 1), "leading zero"},
	{"extent 2^64", raw(`{"a":`+ten("U8", "18446744073709551616", "0,1")+`}`, 1), "beyond 2^63-1"},
	{"shape overflow", raw(`{"a":`+ten("U8", "4294967296,4294967296,4294967296", "0,0")+`}`, 0), "more elements"},
	{"bytes overflow", raw(`{"a":`+ten("F64", "2305843009213693952", "0,0")+`}`, 0), "more elements"},
	{"overflow then zero", raw(`{"a":`+ten("U8", "9223372036854775807,3,0", "0,0")+`}`, 0), "more elements"},
	{"nine axes", raw(`{"a":`+ten("U8", "1,1,1,1,1,1,1,1,1", "0,1")+`}`, 1), "more than 8 axes"},
	{"size differs", raw(`{"a":`+ten("F32", "2", "0,4")+`}`, 4), "needs 8 bytes, its offsets span 4"},
	{"end before begin", raw(`{"a":`+ten("U8", "0", "1,0")+`}`, 1), "before they begin"},
	{"one offset", raw(`{"a":`+ten("U8", "1", "0")+`}`, 1), "needs two numbers"},
	{"three offsets", raw(`{"a":`+ten("U8", "1", "0,1,2")+`}`, 1), "more than two"},
	{"no name", raw(`{"":`+ten("U8", "1", "0,1")+`}`, 1), "without a name"},
	{"long name", raw(`{"`+strings.Repeat("n", 5000)+`":`+ten("U8", "1", "0,1")+`}`, 1), "longer than 4096"},
	{"bad UTF-8", raw("{\"\xff\":"+ten("U8", "1", "0,1")+`}`, 1), "UTF-8"},
	{"bad UTF-8 after escape", raw("{\"\\n\xff\":"+ten("U8", "1", "0,1")+`}`, 1), "UTF-8"},
	{"lone surrogate", raw(`{"\ud800":`+ten("U8", "1", "0,1")+`}`, 1), "surrogate"},
	{"control character", raw("{\"a\nb\":"+ten("U8", "1", "0,1")+`}`, 1), "control character"},
	{"bad escape", raw(`{"\x":`+ten("U8", "1", "0,1")+`}`, 1), "unknown escape"},
	{"trailing comma", raw(`{"a":`+ten("U8", "1", "0,1")+`,}`, 1), "expected '\"'"},
	{"NUL padding", raw("{}\x00\x00", 0), "expected the end"},
	{"zip", "PK\x03\x04aaaaaaaaaaaaaaa", "pickle can run code"},
	{"pickle 4", "\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}", "Python pickle"},
	{"old torch", "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", "Python pickle"},
	{"GGUF", "GGUF\x03\x00\x00\x00\x00", "GGUF file"},
	{"LFS pointer", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
	{"web page", "<!DOCTYPE html><html>", "download failed"},
	{"gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00", "decompress"},
}

func TestMalformedSafetensors(t *testing.T) {
	for _, c := range malformed {
		t.Run(c.name, func(t *testing.T) {
			m := memory(t, map[string]string{"x.safetensors": c.data})
			_, err := OpenSafetensors(m, "/d/x.safetensors")
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "/d/x.safetensors: ")
			require.Contains(t, err.Error(), "; ", "the error has a remedy")
		})
	}
}

// Every prefix of a good file must be refused, and so must every file with one header bit flipped, unless it still is a valid file.
func TestMutatedSafetensors(t *testing.T) {
	m := memory(t, nil)
	require.NoError(t, WriteSafetensors(m, "/d/a.safetensors", []Named{{"w", f32s(t, []float32{1, 2, 3}, 3)}, {"b", tensor.Scalar(true)}}, map[string]string{"format": "pt"}))
	good, err := vfs.ReadFile(m, "/d/a.safetensors", 1<<20)
	require.NoError(t, err)
	open := func(b []byte) error {
		_, err := newFile("x", reader(b))
		return err
	}
	require.NoError(t, open(good))
	for n := range good {
		require.ErrorIs(t, open(good[:n]), ErrFormat, "prefix of %d", n)
	}
	accepted := 0
	for i := range good {
		for bit := range 8 {
			b := append([]byte(nil), good...)
			b[i] ^= 1 << bit
			if err := open(b); err == nil {
				accepted++
			} else {
				require.ErrorIs(t, err, ErrFormat)
			}
		}
	}
	t.Logf("%d prefixes refused; of %d files with a flipped bit %d are valid files", len(good), 8*len(good), accepted)
}

func TestHostileMemory(t *testing.T) {
	// A long shape, long digits and a header of nothing but brackets must cost no more than a few times their size.
	for _, header := range []string{
		`{"a":{"shape":[` + strings.Repeat("1,", 1<<20),
		`{"a":{"shape":[` + strings.Repeat("9", 1<<21),
		`{"` + strings.Repeat("n", 1<<21),
		strings.Repeat(`{"a":`, 1<<19),
		`{"__metadata__":{"k":"` + strings.Repeat(`\u0041`, 1<<19),
	} {
		data := reader(raw(header, 0))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := newFile("x", data)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, ErrFormat)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*len(data)+1<<20))
	}
}

func TestSafetensorsAccepts(t *testing.T) {
	header := "{\n \"b\\u00e9\": {\"data_offsets\": [2, 4], \"shape\": [], \"dtype\": \"I16\"},\t\"z\":" + ten("U8", "0,9223372036854775807", "4,4") +
		",\"a\":" + ten("BOOL", "2", "0,2") + "}  "
	m := memory(t, map[string]string{"x": raw(header, 4)})
	f, err := OpenSafetensors(m, "/d/x")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "bé", "z"}, f.Names())
	require.Nil(t, f.Metadata())
	typ, ok := f.Type("bé")
	require.True(t, ok)
	require.Equal(t, tensor.T(tensor.I16), typ)
	got, err := f.Read("bé")
	require.NoError(t, err)
	require.Equal(t, 257.0, got.At(0))
	_, err = f.Read("a")
	require.NoError(t, err)
	_, err = f.Read("none")
	require.ErrorContains(t, err, `no tensor "none" among its 3`)
	p := make([]byte, 1)
	require.NoError(t, f.ReadInto("a", 1, p))
	require.Error(t, f.ReadInto("a", 2, p))
	require.Error(t, f.ReadInto("a", -1, p))
	require.NoError(t, f.ReadInto("a", 2, nil))
	require.NoError(t, f.Close())
}

// A type that cannot be computed with must not hide the other tensors of the file.
func TestForeignDTypes(t *testing.T) {
	m := memory(t, map[string]string{"x": raw(`{"c":`+ten("C64", "1", "0,8")+`,"f4":`+ten("F4", "6", "8,11")+`,"f8":`+ten("F8_E4M3", "2", "11,13")+`,"u":`+ten("U8", "1", "13,14")+`}`, 14)})
	f, err := OpenSafetensors(m, "/d/x")
	require.NoError(t, err)
	_, err = f.Read("u")
	require.NoError(t, err)
	require.Equal(t, "U8", f.DTypeName("u"))
	require.Empty(t, f.DTypeName("none"))
	for name, dtype := range map[string]string{"c": "C64", "f4": "F4", "f8": "F8_E4M3"} {
		typ, ok := f.Type(name)
		require.True(t, ok)
		require.Equal(t, tensor.Invalid, typ.DType)
		require.Equal(t, dtype, f.DTypeName(name))
		_, err = f.Read(name)
		require.ErrorContains(t, err, "dtype "+dtype+" is not supported")
		require.ErrorIs(t, err, ErrFormat)
	}
	require.NoError(t, f.ReadInto("f8", 0, make([]byte, 2)))
	in, err := Inspect(m, "/d/x")
	require.NoError(t, err)
	require.EqualValues(t, 14, in.Bytes)
	require.EqualValues(t, 3, in.ByDType["F4"])
}

func TestBoolMustBeZeroOrOne(t *testing.T) {
	m := memory(t, map[string]string{"x": raw(`{"a":`+ten("BOOL", "2", "0,2")+`}`, 0) + "\x01\x02"})
	f, err := OpenSafetensors(m, "/d/x")
	require.NoError(t, err)
	_, err = f.Read("a")
	require.ErrorIs(t, err, ErrFormat)
	require.ErrorContains(t, err, "element 1")
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := memory(t, nil)
		names := rapid.SliceOfNDistinct(rapid.StringN(1, 20, 80).Filter(func(s string) bool {
			return checkSpec(Spec{s, tensor.T(tensor.U8)}) == nil
		}), 0, 6, rapid.ID[string]).Draw(rt, "names")
		meta := rapid.MapOfN(rapid.StringN(0, 8, 32), rapid.StringN(0, 8, 32), 0, 3).Draw(rt, "metadata")
		var in []Named
		for _, n := range names {
			dims := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 4).Draw(rt, "dims")
			x := tensor.New(tensor.T(rapid.SampledFrom(tensor.DTypes()).Draw(rt, "dtype"), dims...))
			for i := range x.Bytes() {
				x.Bytes()[i] = byte(i*7+len(n)) & 1
			}
			in = append(in, Named{n, x})
		}
		require.NoError(rt, WriteSafetensors(m, "/d/f", in, meta))
		f, err := OpenSafetensors(m, "/d/f")
		require.NoError(rt, err)
		require.Len(rt, f.Names(), len(in))
		require.Equal(rt, meta, f.Metadata())
		for _, n := range in {
			got, err := f.Read(n.Name)
			require.NoError(rt, err)
			require.Equal(rt, n.Tensor.Type(), got.Type())
			require.Equal(rt, n.Tensor.Bytes(), got.Bytes())
		}
		require.Zero(rt, f.base%8, "data begin aligned")
		for _, e := range f.entries {
			require.Zero(rt, e.begin%int64(e.typ.DType.Size()), "tensor aligned")
		}
	})
}

// reader is a vfs.Reader over bytes or a string.
func reader[T string | []byte](b T) memReader { return memReader(b) }

type memReader string

func (r memReader) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader(string(r)).ReadAt(p, off)
}
func (r memReader) Size() int64  { return int64(len(r)) }
func (r memReader) Close() error { return nil }
