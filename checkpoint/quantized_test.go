package checkpoint

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// without is a file of one quantized weight that lacks some parts.
func without(t *testing.T, format string, missing ...string) *File {
	t.Helper()
	full, err := newFile("x", reader(quantizedFile(t, format)))
	require.NoError(t, err)
	var left []Named
	for _, name := range full.Names() {
		if !slices.Contains(missing, name) {
			w, err := full.Read(name)
			require.NoError(t, err)
			left = append(left, Named{name, w})
		}
	}
	require.Len(t, left, len(full.Names())-len(missing), "every name occurs")
	return fileOf(t, left)
}

func fileOf(t *testing.T, tensors []Named) *File {
	t.Helper()
	m := faultfs.New()
	require.NoError(t, WriteSafetensors(m, "/f", tensors, nil))
	f, err := OpenSafetensors(m, "/f")
	require.NoError(t, err)
	return f
}

// TestQuantizedComplete takes each part of a quantized weight away. What is left is never taken for a tensor in full precision: the header
// tells before anything is read, or Complete does.
func TestQuantizedComplete(t *testing.T) {
	for _, format := range []string{"nf4", "fp4:double", "int8", "int3:group=8,asym", "cb5:double"} {
		whole := without(t, format)
		z, err := OpenQuantized(whole, "x", &Quantization{Method: MethodBNB})
		require.NoError(t, err)
		require.NoError(t, z.Complete())
		require.Len(t, z.Parts("a.weight"), len(whole.Names()))
		for _, part := range whole.Names() {
			if part == "a.weight_format" { // files of the library's first versions have none
				continue
			}
			f := without(t, format, part)
			z, err := OpenQuantized(f, "x", &Quantization{Method: MethodBNB})
			if err == nil {
				err = z.Complete()
			}
			if err == nil {
				_, err = z.describe("a.weight")
			}
			if err == nil {
				_, err = z.State("a.weight")
				require.NotContains(t, []string{"nf4", "fp4:double", "int8"}, format, "a layer for it is declared without %s", part)
			}
			require.ErrorIs(t, err, ErrFormat, "%s without %s", format, part)
			require.ErrorContains(t, err, "a.", "%s without %s", format, part)
		}
	}
	f := without(t, "nf4", "a.weight", "a.weight.absmax", "a.weight.quant_map", "a.weight.quant_state.bitsandbytes__nf4")
	z, err := OpenQuantized(f, "x", &Quantization{Method: MethodBNB})
	require.NoError(t, err)
	require.NoError(t, z.Complete(), "nothing of the weight is left")
}

// TestQuantizedScaleCount refuses a wrong number of scales from the headers of the file alone.
func TestQuantizedScaleCount(t *testing.T) {
	for format, part := range map[string]string{"nf4": "a.weight.absmax", "fp4:double": "a.weight.absmax", "int8": "a.SCB"} {
		f := without(t, format)
		var all []Named
		for _, name := range f.Names() {
			w, err := f.Read(name)
			require.NoError(t, err)
			if name == part {
				w = tensor.New(tensor.T(w.DType(), w.Shape().Size()+1))
			}
			all = append(all, Named{name, w})
		}
		z, err := OpenQuantized(fileOf(t, all), "x", &Quantization{Method: MethodBNB, Scheme: strings.TrimSuffix(format, ":double")})
		require.NoError(t, err)
		_, err = z.Header("a.weight")
		require.ErrorContains(t, err, part)
		require.ErrorContains(t, err, "scales")
	}
}

// TestQuantizedModule reads the state of one layer, whose tensors carry no name of a module.
func TestQuantizedModule(t *testing.T) {
	w := tensor.New(tensor.T(tensor.F16, 2, 33))
	for _, format := range []string{"int8", "nf4"} {
		f, err := quant.ParseFormat(format)
		require.NoError(t, err)
		st, err := quant.QuantizeTensor(w, f, quant.Options{})
		require.NoError(t, err)
		dict, err := st.StateDict("weight")
		require.NoError(t, err)
		var all []Named
		for name, x := range dict {
			all = append(all, Named{name, x})
		}
		z, err := OpenQuantized(fileOf(t, all), "x", &Quantization{Method: MethodBNB})
		require.NoError(t, err)
		require.NoError(t, z.Complete())
		require.Len(t, z.Parts("weight"), len(all), format)
		_, err = z.State("weight")
		require.NoError(t, err)
	}
}

// TestInspectDamaged shows what is wrong with a quantized weight, and no numbers of weights that there are not.
func TestInspectDamaged(t *testing.T) {
	in := Info{Path: "x"}
	in.quantization(without(t, "int8"), json.RawMessage(`{"quantization_config": {"quant_method": "gptq"}}`))
	require.Equal(t, `quantized: `+in.Quantized.Problem, in.Quantized.text())
	require.Contains(t, in.Quantized.Problem, "gptq")
	in = Info{Path: "x"}
	in.quantization(without(t, "int8", "a.SCB"), json.RawMessage(`{"quantization_config": {"load_in_8bit": true}}`))
	require.Contains(t, in.Quantized.text(), "a.weight")
}
