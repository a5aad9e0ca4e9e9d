package checkpoint

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
)

// What the parser accepts must be readable, and must come out the same when it is written and parsed again.
func FuzzSafetensors(f *testing.F) {
	for _, c := range malformed {
		f.Add([]byte(c.data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := newFile("x", reader(data))
		if err != nil {
			return
		}
		m := faultfs.New()
		var specs []Spec
		for _, name := range file.Names() {
			typ, ok := file.Type(name)
			if !ok {
				t.Fatalf("%q is listed and has no type", name)
			}
			if file.entries[file.index[name]].foreign != "" {
				return
			}
			if _, err := file.Read(name); err != nil && !strings.Contains(err.Error(), "BOOL") {
				t.Fatal(err)
			}
			specs = append(specs, Spec{name, typ})
		}
		w, err := NewSafetensorsWriter(m, "/f", specs, file.Metadata())
		if err != nil {
			if strings.Contains(err.Error(), "cannot be the name") {
				return
			}
			t.Fatal(err)
		}
		for _, s := range w.Order() {
			p := make([]byte, s.Type.Bytes())
			if err := file.ReadInto(s.Name, 0, p); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		again, err := OpenSafetensors(m, "/f")
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Names()) != len(specs) || len(again.Metadata()) != len(file.Metadata()) {
			t.Fatal("tensors or metadata were lost")
		}
	})
}

// Every file that an accepted index names must be a plain name.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(index("a", shard1, "b", shard2)))
	f.Add([]byte(index("a", "../x.safetensors")))
	f.Add([]byte(`{"metadata":{"total_size":1e9,"x":[null,true,"\ud83d\ude00"]},"weight_map":{"a":"b.safetensors"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		weights, err := parseIndex(data)
		if err != nil {
			return
		}
		for _, file := range weights {
			if plainName(file) != nil || strings.ContainsAny(file, `/\`) {
				t.Fatalf("accepted %q", file)
			}
		}
	})
}

// Tensors of an accepted header must lie inside the file.
func FuzzLlama2C(f *testing.F) {
	f.Add([]byte(llamaFile(7, 4, 3, 2, 2, 1, -5, 6)), uint64(28))
	f.Add([]byte(llamaFile(0, 4, 3, 1, 2, 2, 5, 6)), uint64(4*(5*4+4+4*16+4+36+4+12)+28))
	f.Add([]byte(llamaFile(0, 1<<30, 1<<30, 1<<30, 1, 1, 1<<30, 1<<30)), uint64(1<<62))
	f.Fuzz(func(t *testing.T, data []byte, size uint64) {
		if len(data) < llama2cHeaderBytes || size > 1<<62 {
			return
		}
		h, err := parseLlama2C(data[:llama2cHeaderBytes], int64(size))
		if err != nil || size > 1<<24 {
			return
		}
		m := &Llama2C{store{path: "x", base: llama2cHeaderBytes, index: map[string]int{}}, h}
		m.lay()
		for _, e := range m.entries {
			if e.begin < 0 || e.end < e.begin || uint64(e.end)+llama2cHeaderBytes > size {
				t.Fatalf("%q lies at %d..%d of %d", e.name, e.begin, e.end, size)
			}
		}
	})
}

// An accepted manifest is written and parsed to the same value.
func FuzzManifest(f *testing.F) {
	item := func(name string) manifestItem { return manifestItem{name, 1, strings.Repeat("ab", 32)} }
	good, err := (&manifest{manifestFormat, manifestVersion, 3, []manifestItem{item(tensorsFile), item(stateFile)}}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Replace(string(good), "state.json", "../x", 1)))
	f.Add(binary.LittleEndian.AppendUint64([]byte(`{"format":`), 7))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseManifest(b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if again.Step != m.Step || len(again.Files) != len(m.Files) {
			t.Fatal("changed by writing")
		}
	})
}
