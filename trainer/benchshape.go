package trainer

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// benchShapes are the architectures that a benchmark knows by name, as their config.json says. Weights are random.
var benchShapes = map[string]string{
	"llama-3.1-8b": `{"model_type":"llama","vocab_size":128256,"hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
		"num_attention_heads":32,"num_key_value_heads":8,"max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":500000,
		"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":8192},
		"tie_word_embeddings":false,"hidden_act":"silu"}`,
	"llama-3.2-1b": `{"model_type":"llama","vocab_size":128256,"hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
		"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":500000,
		"rope_scaling":{"rope_type":"llama3","factor":32,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":8192},
		"tie_word_embeddings":true,"hidden_act":"silu"}`,
	"gpt2-124m": `{"model_type":"gpt2","vocab_size":50257,"n_embd":768,"n_layer":12,"n_head":12,"n_positions":1024,"layer_norm_epsilon":1e-5,
		"activation_function":"gelu_new"}`,
	"gpt2-1.5b": `{"model_type":"gpt2","vocab_size":50257,"n_embd":1600,"n_layer":48,"n_head":25,"n_positions":1024,"layer_norm_epsilon":1e-5,
		"activation_function":"gelu_new"}`,
	"tiny": `{"model_type":"llama","vocab_size":512,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":4,
		"num_key_value_heads":2,"max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000,"tie_word_embeddings":false,"hidden_act":"silu"}`,
}

// BenchShapes lists the names of the shapes.
func BenchShapes() []string {
	var out []string
	for name := range benchShapes {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// shapeConfig is the architecture of a shape, or of a config.json.
func shapeConfig(name string) (models.Config, error) {
	raw, ok := benchShapes[name]
	if name == "" {
		return models.Config{}, badConfig("shape", "says what to train: %s, or the path of a config.json", strings.Join(BenchShapes(), ", "))
	}
	if !ok && !strings.HasSuffix(name, ".json") {
		return models.Config{}, badConfig("shape", "%q is not known; known: %s, or the path of a config.json", name, strings.Join(BenchShapes(), ", "))
	}
	if !ok {
		file, err := vfs.ReadFile(vfs.OS{}, name, maxConfigFile)
		if err != nil {
			return models.Config{}, withCode(config.ExitInput, err)
		}
		raw = string(file)
	}
	c, err := models.ParseConfig([]byte(raw))
	if err == nil && c.Quantization != nil {
		err = errors.New("quantization_config describes stored weights, and a benchmark draws its own; remove it")
	}
	if err != nil {
		return c, withCode(config.ExitInput, fmt.Errorf("shape %s: %w", name, err))
	}
	return c, nil
}

// openShape declares a model of an architecture, whose weights are drawn.
func openShape(name string, c models.Config, policy layers.Policy, q config.Quantize, seed uint64) (*Model, error) {
	m := &Model{Name: name, TokFiles: map[string][]byte{}}
	so := layers.Options{Policy: policy, Seed: seed}
	var err error
	if so.Quantize, err = m.quantizeRule(q); err != nil {
		return nil, err
	}
	if so.Compute4bit, err = m.compute4bit(q); err != nil {
		return nil, err
	}
	m.Source = layers.NewSource(so)
	m.Model, err = models.New(c, m.Source)
	return m, err
}

// Lengths of the documents that rows are packed from.
const (
	shortestDocument = 64
	longestDocument  = 2048
)

// writeBenchRows writes documents of random ids, enough for so many rows of seqLen tokens: each a row of its own, or of lengths that are
// drawn evenly and that packing puts together.
func writeBenchRows(path string, docs string, vocab, rows, seqLen int, seed uint64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return withCode(config.ExitDisk, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	r := rand.New(rand.NewPCG(seed, 0x62656e6368))
	var line []byte
	for left := rows * seqLen; left > 0; {
		n := seqLen
		if docs == DocsPacked {
			n = min(shortestDocument+r.IntN(longestDocument-shortestDocument+1), seqLen)
		}
		left -= n
		line = append(line[:0], `{"input_ids":[`...)
		for i := range n {
			if i > 0 {
				line = append(line, ',')
			}
			line = strconv.AppendInt(line, int64(r.IntN(vocab)), 10)
		}
		if _, err := w.Write(append(line, "]}\n"...)); err != nil {
			return withCode(config.ExitDisk, err)
		}
	}
	return withCode(config.ExitDisk, w.Flush())
}
