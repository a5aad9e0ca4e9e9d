package lora

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// DefaultRank is the rank when none is given.
const DefaultRank = 16

// Config says which layers get an adapter and of what kind. The zero value is plain LoRA of rank 16 on all linear layers.
type Config struct {
	Rank    int     // r; 0 = 16
	Alpha   float64 // α; 0 = 2r
	Dropout float32 // on the adapter's input, while training; not on embeddings
	RSLoRA  bool    // scale α/√r instead of α/r
	DoRA    bool    // a trained magnitude for each row of the weight (Liu et al. 2024)
	BBias   bool    // B has a bias: y = Wx + s(B(Ax) + b); PEFT's lora_bias

	Targets        Targets
	Parameters     []string // further targets: weights of experts and of their routers ("gate.weight"); PEFT's target_parameters
	Embeddings     bool     // the input embedding too, beside all-linear
	Exclude        []string // names, as in Targets, of modules that stay as they are
	ExcludePattern string   // a regular expression instead of names
	Layers         []int    // only layers of these numbers; nil: all. Not beside a pattern
	LayersPattern  []string // what stands before a layer's number in paths, as "layers"; nil: anything
	ModulesToSave  []string // modules that are trained whole: those whose path ends in one of these
	Bias           Bias     // which biases of the model are trained
	// Tokens are rows of embeddings that are trained alone, by the name of the embedding; "" is the model's input embedding, with the
	// head that shares its table.
	Tokens map[string][]int

	// RankPattern and AlphaPattern give modules of their own r and α: those whose path is the key, a regular expression, or ends in
	// "."+key. The first key in sorted order that matches counts.
	RankPattern  map[string]int
	AlphaPattern map[string]float64

	Init       Init
	LoftQSteps int // alternations of InitLoftQ; 0 = 1

	Seed  uint64       // of initial values
	Param tensor.DType // how trained variables are stored: float32 if not set, bfloat16 or float16
}

// Bias says which biases of the base model are trained beside an adapter.
type Bias string

// The kinds of Bias; the empty string is BiasNone.
const (
	BiasNone Bias = "none"
	BiasAll  Bias = "all"
	BiasLoRA Bias = "lora_only" // those of adapted layers
)

// Init is how A and B begin. All but InitZero leave what the model computes as it is, up to rounding and, on a quantized base, the error of
// quantizing anew.
type Init string

const (
	// InitDefault is A Kaiming-uniform with a = √5 and B zero; of an embedding A zero and B normal.
	InitDefault Init = ""
	// InitGaussian is A normal with standard deviation 1/r, and B zero.
	InitGaussian Init = "gaussian"
	// InitOrthogonal makes B·A zero by orthogonal halves; r must be even.
	InitOrthogonal Init = "orthogonal"
	// InitPiSSA is the r largest singular triplets of the weight, which keeps the rest (Meng et al. 2024). "pissa_niter_N" computes them
	// by N steps of a randomised subspace iteration.
	InitPiSSA Init = "pissa"
	// InitOLoRA is the first r columns of Q and rows of R of the weight's QR decomposition, which keeps the rest (Büyükakyüz 2024).
	InitOLoRA Init = "olora"
	// InitLoftQ is the rank-r part of the error of quantization, which it makes up for (Li et al. 2023). It needs a 4-bit or int8 base and
	// the weights in full precision.
	InitLoftQ Init = "loftq"
)

// pissaSteps begins the name of the randomised PiSSA.
const pissaSteps = "pissa_niter_"

// Steps returns the N of "pissa_niter_N".
func (i Init) Steps() (int, bool) {
	text, ok := strings.CutPrefix(string(i), pissaSteps)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0 && n <= maxSteps
}

// maxSteps bounds the iterations of randomised PiSSA and of LoftQ.
const maxSteps = 1000

// Inits lists what Init may be, for messages.
func Inits() []string {
	return []string{string(InitGaussian), string(InitOrthogonal), string(InitPiSSA), pissaSteps + "N", string(InitOLoRA), string(InitLoftQ)}
}

// moves reports whether the initial values take part of the base weight over, so that the base is changed.
func (i Init) moves() bool {
	_, niter := i.Steps()
	return niter || i == InitPiSSA || i == InitOLoRA || i == InitLoftQ
}

// known reports whether i is one of the initialisations.
func (i Init) known() bool {
	return i.moves() || i == InitDefault || i == InitGaussian || i == InitOrthogonal
}

// Scale is the factor of the adapter's output, of modules without a pattern of their own.
func (c Config) Scale() float64 { return c.scale(c.Rank, c.Alpha) }

func (c Config) scale(r int, alpha float64) float64 {
	if c.RSLoRA {
		return alpha / math.Sqrt(float64(r))
	}
	return alpha / float64(r)
}

func (c Config) withDefaults() Config {
	if c.Rank == 0 {
		c.Rank = DefaultRank
	}
	if c.Alpha == 0 {
		c.Alpha = 2 * float64(c.Rank)
	}
	if c.Bias == "" {
		c.Bias = BiasNone
	}
	if c.Init == InitLoftQ && c.LoftQSteps == 0 {
		c.LoftQSteps = 1
	}
	return c
}

// param is the dtype of trained variables.
func (c Config) param() tensor.DType {
	if c.Param == tensor.Invalid {
		return tensor.F32
	}
	return c.Param
}

// Check says what is wrong with the configuration by itself, whatever the model.
func (c Config) Check() error {
	if err := c.checkKind(); err != nil {
		return err
	}
	if _, err := c.selector(); err != nil {
		return err
	}
	_, err := c.withDefaults().sizes()
	return err
}

// checkKind is Check without the patterns.
func (c Config) checkKind() error {
	c = c.withDefaults()
	switch {
	case c.Rank < 1 || c.Rank > maxRank || !(c.Alpha > 0) || math.IsInf(c.Alpha, 0) || !(c.Dropout >= 0 && c.Dropout < 1):
		return fmt.Errorf("lora: rank %d, alpha %v and dropout %v must satisfy r >= 1, alpha > 0 and 0 <= dropout < 1", c.Rank, c.Alpha, c.Dropout)
	case c.DoRA && c.BBias:
		return fmt.Errorf("lora: DoRA has no bias on B; leave one of them out")
	case c.BBias && c.Init != InitDefault:
		return fmt.Errorf("lora: a bias on B begins with the default initialisation only, not with %q", c.Init)
	case !slices.Contains([]Bias{BiasNone, BiasAll, BiasLoRA}, c.Bias):
		return fmt.Errorf("lora: bias %q is not known; use none, all or lora_only", c.Bias)
	case !c.Init.known():
		return fmt.Errorf("lora: initialisation %q is not known; known are %s", c.Init, strings.Join(Inits(), ", "))
	case c.DoRA && c.Init.moves():
		return fmt.Errorf("lora: DoRA begins from an unchanged base, and %q changes it; leave one of them out", c.Init)
	case c.LoftQSteps < 0 || c.LoftQSteps > maxSteps:
		return fmt.Errorf("lora: LoftQ takes 1 to %d alternations, not %d", maxSteps, c.LoftQSteps)
	case c.Targets.Pattern != "" && len(c.Layers) > 0:
		return fmt.Errorf("lora: layers are chosen beside names or all-linear; a target pattern says itself which layers it means")
	case len(c.LayersPattern) > 0 && len(c.Layers) == 0:
		return fmt.Errorf("lora: a layers pattern needs the numbers of layers that it is to choose")
	case len(c.Exclude) > 0 && c.ExcludePattern != "":
		return fmt.Errorf("lora: both names and a pattern are excluded; use one of them")
	}
	return nil
}

// sizes tells the rank and α of a module.
func (c Config) sizes() (func(path string) (r int, alpha float64), error) {
	ranks, alphas := patterns{}, patterns{}
	for _, key := range sortedKeys(c.RankPattern) {
		if v := c.RankPattern[key]; v < 1 || v > maxRank {
			return nil, fmt.Errorf("lora: the rank of %q is %d, it must be a whole number from 1 to %d", key, v, maxRank)
		}
		p, err := newPattern(key, float64(c.RankPattern[key]))
		if err != nil {
			return nil, fmt.Errorf("lora: rank_pattern: %w", err)
		}
		ranks = append(ranks, p)
	}
	for _, key := range sortedKeys(c.AlphaPattern) {
		if v := c.AlphaPattern[key]; !(v > 0) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("lora: the alpha of %q is %v, it must be a positive number", key, v)
		}
		p, err := newPattern(key, c.AlphaPattern[key])
		if err != nil {
			return nil, fmt.Errorf("lora: alpha_pattern: %w", err)
		}
		alphas = append(alphas, p)
	}
	return func(path string) (int, float64) {
		r, alpha := c.Rank, c.Alpha
		if v, ok := ranks.find(path); ok {
			r = int(v)
		}
		if v, ok := alphas.find(path); ok {
			alpha = v
		}
		return r, alpha
	}, nil
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// compile compiles a pattern in linear time: what Python has beyond that is refused.
func compile(expr string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("%w (looking around and back references are not supported; name the modules, or exclude some)", err)
	}
	return re, nil
}

// pattern gives a number to the modules whose path it matches, as PEFT's rank_pattern and alpha_pattern do.
type pattern struct {
	re    *regexp.Regexp
	value float64
}

type patterns []pattern

func newPattern(key string, value float64) (pattern, error) {
	re, err := compile(`^(?:.*\.)?(?:` + key + `)$`)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %q: %w", key, err)
	}
	return pattern{re, value}, nil
}

// find returns the value of the first pattern that matches.
func (p patterns) find(path string) (float64, bool) {
	for _, x := range p {
		if x.re.MatchString(path) {
			return x.value, true
		}
	}
	return 0, false
}
