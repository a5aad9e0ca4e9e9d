package data

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
)

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return z.EncodeAll(b, nil)
}

func TestCSV(t *testing.T) {
	const rows = "prompt,completion,note\n\"a, \"\"b\"\"\nc\",d,x\nP,C,\n"
	for name, content := range map[string]string{
		"a.csv": rows, "a.csv.gz": rows, "bom.csv": "\xef\xbb\xbf" + rows, "a.tsv": strings.NewReplacer(",d,x", "\td\tx", "P,C,", "P\tC\t", "t,c", "t\tc", "n,n", "n\tn").Replace(rows),
	} {
		t.Run(name, func(t *testing.T) {
			set := load(t, Options{}, write(t, name, content))
			require.Equal(t, 2, set.Len())
			require.Equal(t, "a, \"b\"\ncd", bytesOf(example(t, set, 0).IDs))
			require.Equal(t, "PC", bytesOf(example(t, set, 1).IDs))
			require.True(t, strings.HasSuffix(set.Source(1), ":4"), set.Source(1))
			require.Contains(t, set.Files()[0].Why, `ignored: "note"`)
		})
	}
	set := load(t, Options{}, write(t, "lists.csv", "input_ids,labels\n\"[1, 2, 3]\",\"[-100, -100, 3]\"\n"))
	require.Equal(t, []int32{1, 2, 3}, example(t, set, 0).IDs)
	require.Equal(t, []int32{Ignore, Ignore, 3}, example(t, set, 0).Labels)
	for content, says := range map[string]string{
		"text\n\"ab":                            "is not CSV",
		"text\na,b\n":                           "2: has 2 fields, the first line names 1",
		"text,text\na,b\n":                      "two columns are named",
		"text,\na,b\n":                          "column 2 has no name",
		"foo\nbar\n":                            `no format fits the keys "foo"`,
		"text\n\xff\n":                          "not UTF-8",
		"text\n":                                "holds no rows",
		strings.Repeat("a,", 40) + "a\n":        "two columns are named",
		"text\n\"" + strings.Repeat("a", 70000): "longer than 100 bytes",
	} {
		_, err := loadErr(Options{Limits: Limits{RowBytes: 100}}, write(t, "a.csv", content))
		require.ErrorContains(t, err, says)
	}
}

func TestCSVWithManyColumns(t *testing.T) {
	_, err := loadErr(Options{}, write(t, "a.csv", strings.Repeat(",", 1<<20)+"\n"))
	require.ErrorContains(t, err, "names 1048577 columns")
}

func TestZstd(t *testing.T) {
	dir := t.TempDir()
	save := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	row := []byte(`{"text":"ab"}` + "\n")
	set := load(t, Options{}, save("a.jsonl.zst", zstded(t, row)))
	require.Equal(t, "ab", bytesOf(example(t, set, 0).IDs))
	require.Equal(t, "ab\n", bytesOf(example(t, load(t, Options{}, save("a.txt.zst", zstded(t, []byte("ab\n")))), 0).IDs))
	for name, c := range map[string]struct {
		body []byte
		says string
	}{
		"bomb.txt.zst": {zstded(t, bytes.Repeat([]byte("a b c\n"), 12<<20)), "expands to more than 100 times"},
		"fake.txt.zst": {[]byte("plain text"), "magic"},
		"cut.txt.zst":  {zstded(t, bytes.Repeat([]byte("a b c\n"), 1000))[:20], "unexpected EOF"},
	} {
		_, err := loadErr(Options{}, save(name, c.body))
		require.ErrorContains(t, err, c.says, name)
	}
}

type pqMessage struct {
	Role    string  `parquet:"role"`
	Content *string `parquet:"content,optional"`
}

type pqInner struct {
	X []string `parquet:"x,list"`
}

type pqExample struct {
	Messages []pqMessage       `parquet:"messages,list"`
	IDs      []int64           `parquet:"input_ids,list"`
	Old      []int32           `parquet:"old"`
	Nested   []pqInner         `parquet:"nested,list"`
	Map      map[string]string `parquet:"map"`
	Score    float64           `parquet:"score"`
	Ok       *bool             `parquet:"ok,optional"`
	Blob     []byte            `parquet:"blob"`
	Single   float32           `parquet:"single"`
}

func parquetFile(t testing.TB, rows []pqExample, opts ...parquet.WriterOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[pqExample](&b, opts...)
	_, err := w.Write(rows)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func ptr[T any](v T) *T { return &v }

func parquetRows(t testing.TB, raw []byte, lim Limits) (rows []string, err error) {
	t.Helper()
	r, err := newParquetReader("a.parquet", bytes.NewReader(raw), int64(len(raw)), lim.withDefaults())
	if err != nil {
		return nil, err
	}
	defer r.close()
	for {
		row, err := r.next()
		if err != nil {
			return rows, err
		}
		rows = append(rows, string(row.raw))
	}
}

func TestParquetRows(t *testing.T) {
	in := []pqExample{
		{Messages: []pqMessage{{"user", ptr(`a "b"`)}, {"assistant", nil}}, IDs: []int64{1, -2}, Old: []int32{5}, Nested: []pqInner{{[]string{"x", "y"}}, {}, {[]string{"z"}}},
			Map: map[string]string{"k": "v"}, Score: 1.5, Ok: ptr(true), Blob: []byte("text"), Single: 0.5},
		{Score: math.NaN(), Blob: []byte{0xff}},
		{Messages: []pqMessage{{"system", ptr("")}}, IDs: []int64{7}, Old: []int32{1, 2}, Nested: []pqInner{{}}, Score: -2},
	}
	want := []string{
		`{"messages":[{"role":"user","content":"a \"b\""},{"role":"assistant"}],"input_ids":[1,-2],"old":[5],"nested":[{"x":["x","y"]},{"x":[]},{"x":["z"]}],"map":{"k":"v"},"score":1.5,"ok":true,"blob":"text","single":0.5}`,
		`{"messages":[],"input_ids":[],"old":[],"nested":[],"map":{},"single":0}`,
		`{"messages":[{"role":"system","content":""}],"input_ids":[7],"old":[1,2],"nested":[{"x":[]}],"map":{},"score":-2,"blob":"","single":0}`,
	}
	var many []pqExample
	var all []string
	for range 100 {
		many, all = append(many, in...), append(all, want...)
	}
	for name, opts := range map[string][]parquet.WriterOption{
		"plain": nil, "zstd": {parquet.Compression(&parquet.Zstd)}, "snappy": {parquet.Compression(&parquet.Snappy)},
		"groups and pages": {parquet.MaxRowsPerRowGroup(70), parquet.PageBufferSize(200)}, "v1": {parquet.DataPageVersion(1)},
	} {
		t.Run(name, func(t *testing.T) {
			rows, err := parquetRows(t, parquetFile(t, many, opts...), Limits{})
			require.ErrorContains(t, err, "EOF")
			require.Len(t, rows, len(all))
			for i := range all {
				require.JSONEq(t, all[i], rows[i])
			}
		})
	}
}

// A file of pyarrow, whose rows hold lists of structs with lists and nulls in all places, gives the JSON that Python wrote without its nulls.
func TestParquetOfPyarrow(t *testing.T) {
	raw, err := os.ReadFile("testdata/pyarrow.parquet")
	require.NoError(t, err)
	lines, err := os.ReadFile("testdata/pyarrow.jsonl")
	require.NoError(t, err)
	want := strings.Split(strings.TrimSpace(string(lines)), "\n")
	rows, err := parquetRows(t, raw, Limits{})
	require.ErrorContains(t, err, "EOF")
	require.Len(t, rows, len(want))
	for i := range want {
		require.JSONEq(t, want[i], rows[i])
	}
	_, err = parquetRows(t, parquetFile(t, []pqExample{{IDs: []int64{1}}}, parquet.Compression(&parquet.Lz4Raw)), Limits{})
	require.ErrorContains(t, err, "write the file with snappy or zstd")
}

func TestParquetSet(t *testing.T) {
	type row struct {
		Prompt     string `parquet:"prompt"`
		Completion string `parquet:"completion"`
	}
	var b bytes.Buffer
	require.NoError(t, parquet.Write(&b, []row{{"a", "b"}, {"c", ""}}))
	dir := t.TempDir()
	path := filepath.Join(dir, "a.parquet")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	_, err := loadErr(Options{}, path)
	require.ErrorContains(t, err, "a.parquet:2: has no token to train on")
	b.Reset()
	require.NoError(t, parquet.Write(&b, []row{{"a", "b"}, {"c", "d"}}))
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	set := load(t, Options{}, path)
	require.Equal(t, "cd", bytesOf(example(t, set, 1).IDs))
	plain := filepath.Join(dir, "a.jsonl")
	require.NoError(t, os.WriteFile(plain, b.Bytes(), 0o600))
	_, err = loadErr(Options{}, plain)
	require.Error(t, err)
	require.NoError(t, os.WriteFile(path+".gz", gzipped(t, b.Bytes()), 0o600))
	_, err = loadErr(Options{}, path+".gz")
	require.ErrorContains(t, err, "unpack it")
}

func TestParquetBombs(t *testing.T) {
	whole := parquetFile(t, []pqExample{{IDs: []int64{1, 2, 3}}})
	footer := func(body []byte) []byte { // a file with a footer of its own
		out := append([]byte("PAR1"), body...)
		return append(binary.LittleEndian.AppendUint32(out, uint32(len(body))), "PAR1"...)
	}
	for says, raw := range map[string][]byte{
		"too short":              []byte("PAR1"),
		"does not end in PAR1":   whole[:len(whole)-5],
		"the footer claims":      append(append([]byte{}, whole[:len(whole)-8]...), 0xff, 0xff, 0xff, 0x7f, 'P', 'A', 'R', '1'),
		"more elements than":     footer([]byte{0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07}), // a list of 2^31 structs
		"ends inside":            footer([]byte{0x18, 0xff, 0x01}),
		"nested too deep":        footer(bytes.Repeat([]byte{0x1c}, 100)),
		"type that does not exi": footer([]byte{0x1f}),
	} {
		_, err := parquetRows(t, raw, Limits{})
		require.ErrorContains(t, err, says)
	}
	_, err := parquetRows(t, parquetFile(t, []pqExample{{Blob: bytes.Repeat([]byte("a"), 500)}}), Limits{RowBytes: 100})
	require.ErrorContains(t, err, "a.parquet:1: row is longer than 100 bytes")
}

// pageHeader is the header of a data page in Thrift's compact encoding: sizes, and a count of values.
func pageHeader(unpacked, packed, values int64) []byte {
	b := binary.AppendVarint([]byte{0x15, 0x00, 0x15}, unpacked)
	b = append(b, 0x15)
	b = binary.AppendVarint(b, packed)
	b = append(b, 0x2c, 0x15) // field 5, of it field 1
	return append(binary.AppendVarint(b, values), 0, 0)
}

func TestParquetPageLimits(t *testing.T) {
	for says, c := range map[string]struct {
		head   []byte
		listed bool
	}{
		"expands from 10 to 104857600":     {pageHeader(100<<20, 10, 1), false},
		"claims 20971520 values; write":    {pageHeader(10, 10, 20<<20), false},
		"claims 8388608 values in lists":   {pageHeader(10, 10, 8<<20), true},
		"has a size outside its column":    {pageHeader(10, 11, 1), false},
		"the page header at 0 ends inside": {[]byte{0x15}, false},
	} {
		raw := c.head
		if len(raw) > 1 {
			raw = append(raw, make([]byte, 10)...)
		}
		err := checkColumn(bytes.NewReader(raw), 0, int64(len(raw)), c.listed, Limits{}.withDefaults())
		require.ErrorContains(t, err, says)
	}
	raw := append(pageHeader(8<<20, 10, 8<<20), make([]byte, 10)...)
	require.NoError(t, checkColumn(bytes.NewReader(raw), 0, int64(len(raw)), false, Limits{}.withDefaults()))
}

// Whatever the bytes, reading ends with an error and without a panic; what is read is JSON.
func FuzzParquet(f *testing.F) {
	f.Add(parquetFile(f, []pqExample{{Messages: []pqMessage{{"user", nil}}, IDs: []int64{1}}}))
	f.Add(parquetFile(f, []pqExample{{Nested: []pqInner{{[]string{"a"}}}, Map: map[string]string{"k": "v"}}}, parquet.Compression(&parquet.Snappy)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rows, err := parquetRows(t, raw, Limits{RowBytes: 1 << 16})
		require.Error(t, err)
		for _, r := range rows {
			row := Row{raw: []byte(r)}
			require.NoError(t, row.parse())
		}
	})
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte("a,b\n1,2\n"))
	f.Add([]byte("a\n\"x\"\"\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := newCSVReader("a.csv", bytes.NewReader(raw), ',', 1<<10)
		for {
			row, err := c.next()
			if err != nil {
				return
			}
			require.Len(t, row.Fields, len(c.head))
		}
	})
}
