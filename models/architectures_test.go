package models_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestArchitectures: for the configurations of published models (their lists of rotary factors replaced), parameters have the names and
// shapes that transformers 5.24 gives them, and layers its windows.
func TestArchitectures(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "architectures.json"))
	require.NoError(t, err)
	var list []struct {
		Name       string
		Config     json.RawMessage
		Tensors    int
		Parameters int
		SHA256     string // of the sorted lines "name extent extent\n"
		Windows    []int32
	}
	require.NoError(t, json.Unmarshal(raw, &list))
	for _, k := range list {
		t.Run(k.Name, func(t *testing.T) {
			c, err := models.ParseConfig(k.Config)
			require.NoError(t, err)
			require.Equal(t, k.Windows, c.Windows)
			m, err := models.New(c, layers.NewSource(layers.Options{}))
			require.NoError(t, err)
			var lines []string
			total := 0
			for _, p := range layers.Params(m) {
				line := p.Name
				for _, d := range p.Type.Shape.Dims() {
					line += fmt.Sprint(" ", d)
				}
				lines = append(lines, line+"\n")
				total += p.Type.Size()
			}
			require.Len(t, lines, k.Tensors)
			require.Equal(t, k.Parameters, total)
			slices.SortFunc(lines, func(a, b string) int {
				return strings.Compare(a[:strings.IndexByte(a, ' ')], b[:strings.IndexByte(b, ' ')])
			})
			sum := sha256.Sum256([]byte(strings.Join(lines, "")))
			require.Equal(t, k.SHA256, hex.EncodeToString(sum[:]), "%.400s", lines)
		})
	}
}

// TestGoldenHFSixteenBits computes every family in bfloat16 and float16: what is rounded there moves the logits little, and nothing
// overflows.
func TestGoldenHFSixteenBits(t *testing.T) {
	families(t, func(t *testing.T, dir string, g *checkpoint.File) {
		mask, want := read(t, g, "attention_mask"), read(t, g, "logits")
		for d, limit := range map[tensor.DType]float64{tensor.BF16: 0.04, tensor.F16: 0.005} {
			f := openModelIn(t, dir, "config.json", layers.Options{Policy: layers.Policy{Compute: d}})
			p := f.pass(mask.Shape().Dim(0), mask.Shape().Dim(1), false, false)
			got := p.run(newBatch(t, read(t, g, "input_ids"), nil, nil), p.logits())[0]
			keep := realTokens(mask, f.cfg.Vocab)
			square, all := 0.0, 0.0
			for i := range want.Type().Size() {
				if keep(i) {
					square += (got.At(i) - want.At(i)) * (got.At(i) - want.At(i))
					all += want.At(i) * want.At(i)
				}
			}
			require.LessOrEqual(t, square, limit*limit*all, "%v: relative error %.1e", d, square/all)
		}
	})
}
