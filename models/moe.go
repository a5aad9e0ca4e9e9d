package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Mixture describes the layers whose MLP is a mixture of experts. The zero value has none.
type Mixture struct {
	Experts   int   // in each such layer; 0 = no mixture
	PerToken  int   // experts that a token goes to
	Hidden    int   // of one expert
	Normalize bool  // the weights of a token's experts are made to add up to 1
	Every     int   // every so many-th layer has experts; 0 and 1 = all
	Dense     []int // layers that have none all the same
	// BalanceCoef is the factor that the file names for the router's loss (router_aux_loss_coef). It is what the model was trained
	// with; a run that wants that loss says so itself.
	BalanceCoef float64
}

// sparse reports whether a layer has experts.
func (m Mixture) sparse(layer int) bool {
	return m.Experts > 0 && !slices.Contains(m.Dense, layer) && (m.Every <= 1 || (layer+1)%m.Every == 0)
}

// maxExperts bounds the experts of a layer, and with it what a configuration alone can make the program allocate.
const maxExperts = 1 << 12

func (m Mixture) validate() error {
	switch {
	case m.Experts == 0:
		return nil
	case m.Experts < 0 || m.Experts > maxExperts:
		return fmt.Errorf("config.json: there are %d experts, it must be between 1 and %d", m.Experts, maxExperts)
	case m.PerToken < 1 || m.PerToken > m.Experts:
		return fmt.Errorf("config.json: num_experts_per_tok is %d, it must be between 1 and the number of experts, %d", m.PerToken, m.Experts)
	case m.Hidden < 1 || m.Hidden > maxSize/2:
		return fmt.Errorf("config.json: the hidden size of an expert is %d, it must be between 1 and %d", m.Hidden, maxSize/2)
	case m.Every < 0:
		return fmt.Errorf("config.json: decoder_sparse_step is %d, it must be positive", m.Every)
	}
	return nil
}

// SparseBlock is a Block whose MLP is a mixture of experts.
type SparseBlock struct {
	Norm1 *layers.RMSNorm `name:"input_layernorm"`
	Attn  Mixer           `name:"self_attn"`
	Norm2 *layers.RMSNorm `name:"post_attention_layernorm"`
	MoE   *layers.MoE     `name:"mlp"`
}

// Forward implements Layer.
func (b *SparseBlock) Forward(x graph.Value, c layers.AttentionContext) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	y := within(g, "input_layernorm", func() graph.Value { return b.Norm1.Forward(x) })
	x = within(g, "self_attn", func() graph.Value { return ops.Add(x, b.Attn.Forward(y, c)) })
	y = within(g, "post_attention_layernorm", func() graph.Value { return b.Norm2.Forward(x) })
	return within(g, "mlp", func() graph.Value { return ops.Add(x, b.MoE.Forward(y, c.Routes)) })
}

// expertNames are the names that a family's files give to the parts of a mixture: patterns of the layer's folder and of one expert's
// matrices in it.
type expertNames struct{ folder, gate, up, down string }

// newMoE declares the mixture of a layer, src standing at the layer. Files have one tensor an expert and matrix, under the names of
// the family, or those that transformers 5 fuses them to.
func newMoE(c Config, src layers.Source, layer int, names expertNames) (*layers.MoE, error) {
	act, err := c.activation()
	if err != nil {
		return nil, err
	}
	x := c.Mixture
	at := src.Sub("mlp")
	gate := at
	if !at.Has("gate.weight") {
		gate = at.WithNames(func(name string) string { return strings.Replace(name, ".mlp.", "."+names.folder+".", 1) })
	}
	part := func(matrix string, rows int) layers.ExpertPart {
		return layers.ExpertPart{Name: fmt.Sprintf("model.layers.%d.%s.experts.%%d.%s.weight", layer, names.folder, matrix), Rows: rows}
	}
	experts := at.Sub("experts")
	return &layers.MoE{Gate: gate.Head("gate", layers.Normal(c.InitStd), c.Hidden, x.Experts), TopK: x.PerToken, Normalize: x.Normalize,
		Parts: [3]string{names.gate, names.up, names.down},
		Experts: &layers.Experts{Act: act,
			GateUp: experts.Experts("gate_up_proj", x.Experts, c.Hidden, part(names.gate, x.Hidden), part(names.up, x.Hidden)),
			Down:   experts.Experts("down_proj", x.Experts, x.Hidden, part(names.down, c.Hidden)),
		}}, nil
}

// newSparseDecoder is a decoder whose layers have experts where the configuration says so, and a gated MLP elsewhere.
func newSparseDecoder(c Config, src layers.Source, names expertNames, attend func(i int, src layers.Source) Mixer) (Body, error) {
	var failed error
	d := newDecoder(c, src, layers.NewRMSNorm, func(i int, src layers.Source) Layer {
		attn := attend(i, src.Sub("self_attn"))
		if !c.Mixture.sparse(i) {
			mlp, err := newGatedMLP(c, src.Sub("mlp"))
			if err != nil {
				failed = err
			}
			return newBlock(c, src, attn, mlp)
		}
		b := newBlock(c, src, attn, nil)
		moe, err := newMoE(c, src, i, names)
		if err != nil {
			failed = err
		}
		return &SparseBlock{Norm1: b.Norm1, Attn: attn, Norm2: b.Norm2, MoE: moe}
	})
	return d, failed
}

// Piece is a run of a parameter's elements that files hold as a tensor of its own.
type Piece struct {
	Name  string
	Shape tensor.Shape
	First int // element of the parameter that it begins with, in row-major order
}

// Pieces lists the tensors that checkpoints hold a parameter in: itself, or for the weights of experts and their routers the family's
// tensors, as transformers writes them.
func (m *Model) Pieces(p layers.Param) []Piece {
	whole := []Piece{{p.Name, p.Type.Shape, 0}}
	f, err := familyOf(m.config.Type)
	before, rest, ok := strings.Cut(p.Name, ".mlp.")
	if err != nil || f.experts == (expertNames{}) || !ok {
		return whole
	}
	folder := before + "." + f.experts.folder + "."
	var matrices []string
	switch rest {
	case "experts.gate_up_proj":
		matrices = []string{f.experts.gate, f.experts.up}
	case "experts.down_proj":
		matrices = []string{f.experts.down}
	default:
		whole[0].Name = folder + rest
		return whole
	}
	s := p.Type.Shape
	shape := tensor.S(s.Dim(1)/len(matrices), s.Dim(2))
	var out []Piece
	for e := range s.Dim(0) {
		for _, name := range matrices {
			out = append(out, Piece{fmt.Sprintf("%sexperts.%d.%s.weight", folder, e, name), shape, len(out) * shape.Size()})
		}
	}
	return out
}

// Cut copies a piece out of the parameter's value.
func (p Piece) Cut(t *tensor.Tensor) *tensor.Tensor {
	out := tensor.New(tensor.Type{DType: t.DType(), Shape: p.Shape})
	copy(out.Bytes(), t.Bytes()[p.First*t.DType().Size():])
	return out
}
