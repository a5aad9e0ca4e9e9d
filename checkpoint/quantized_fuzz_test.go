package checkpoint

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// quantizedFile is a safetensors file with one weight in a format.
func quantizedFile(t testing.TB, format string) []byte {
	f, err := quant.ParseFormat(format)
	if err != nil {
		t.Fatal(err)
	}
	w := tensor.New(tensor.T(tensor.F16, 2, 33))
	for i := range w.Shape().Size() {
		w.Set(i, float64(i%7)-3)
	}
	st, err := quant.QuantizeTensor(w, f, quant.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dict, err := st.StateDict("a.weight")
	if err != nil {
		t.Fatal(err)
	}
	var named []Named
	for name, x := range dict {
		named = append(named, Named{name, x})
	}
	m := faultfs.New()
	if err := WriteSafetensors(m, "/f", named, nil); err != nil {
		t.Fatal(err)
	}
	raw, err := vfs.ReadFile(m, "/f", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// FuzzQuantized reads files that claim quantized weights: what is accepted dequantizes to the type that its header told.
func FuzzQuantized(f *testing.F) {
	for _, format := range []string{"nf4", "fp4:double", "int8", "int3:group=8,asym", "cb5:double", "fp8_e5m2", "blockwise8"} {
		f.Add(quantizedFile(f, format))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := newFile("x", reader(data))
		if err != nil {
			return
		}
		in := Info{Path: "x", ByDType: map[string]int64{}}
		in.quantization(file, nil)
		z, err := OpenQuantized(file, "x", &Quantization{Method: MethodBNB, Scheme: "nf4"})
		if err != nil {
			return
		}
		for name := range z.parts {
			h, herr := z.describe(name)
			s, err := z.State(name)
			if err != nil {
				continue
			}
			if herr != nil {
				t.Fatalf("%s: a state without a header: %v", name, herr)
			}
			w, err := s.Dequantize(tensor.F32)
			if err != nil {
				t.Fatal(err)
			}
			if w.Shape() != h.Type.Shape {
				t.Fatalf("%v, the header says %v", w.Type(), h.Type)
			}
		}
	})
}
