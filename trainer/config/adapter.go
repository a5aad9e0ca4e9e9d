package config

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bitsandbyes/bitsandbyes/lora"
)

// Adapter says what is trained.
type Adapter struct {
	Type    string  // lora, dora, or none to train every weight
	R       int     // rank
	Alpha   float64 // the update is scaled by Alpha/R
	Dropout float64 // probability in [0, 1)
	Targets Targets
	// Init is how A and B begin: empty, the name of one of lora.Inits, or the directory of an adapter to start from.
	Init       string
	LoftQSteps int // alternations of init loftq; 0 = 1

	RSLoRA        bool    // scale by Alpha/√R
	PlusRatio     float64 // LoRA+: the learning rate of B is this many times that of A; 0 = 1
	Exclude       Targets // modules that stay as they are
	Layers        []int   // only layers of these numbers
	LayersPattern []string
	RankPattern   map[string]float64 // ranks of single modules, whole numbers
	AlphaPattern  map[string]float64
	ModulesToSave []string // trained whole
	Embeddings    bool     // the input embedding is adapted too
	Tokens        []int    // rows of the input embedding that are trained alone
	Bias          string   // none, all or lora_only
	LoRABias      bool     // B has a bias

	// Fold is auto, where adapters are folded into 4-bit weights as those are decoded wherever the device can and it pays, or off. Empty: DefaultFold.
	Fold string
}

// DefaultFold is Fold of a run that does not say.
const DefaultFold = "auto"

// Folds reports whether adapters may be folded into weights as they are decoded.
func (a Adapter) Folds() bool {
	if a.Fold == "" {
		a.Fold = DefaultFold
	}
	return a.On() && a.Fold != "off"
}

// On reports whether an adapter is trained, rather than every weight.
func (a Adapter) On() bool { return a.Type != "none" }

// InitDir is the directory of the adapter to start from, "" for a fresh one.
func (a Adapter) InitDir() string {
	if namedInit(a.Init) {
		return ""
	}
	return a.Init
}

// Fresh reports whether the model without the adapter is the model that the run starts from: the adapter is new and takes nothing out of the
// weights.
func (a Adapter) Fresh() bool {
	return a.On() && a.InitDir() == "" && slices.Contains([]lora.Init{lora.InitDefault, lora.InitGaussian, lora.InitOrthogonal}, lora.Init(a.Init))
}

// TrainsWhole reports whether ModulesToSave means a module of one of the names.
func (a Adapter) TrainsWhole(modules ...string) bool {
	return slices.ContainsFunc(a.ModulesToSave, func(end string) bool {
		return slices.ContainsFunc(modules, func(m string) bool { return strings.HasSuffix(m, end) })
	})
}

func namedInit(s string) bool {
	_, steps := lora.Init(s).Steps()
	return s == "" || steps || slices.Contains(lora.Inits(), s)
}

// LoRA is the adapter as package lora has it, without seed and storage.
func (a Adapter) LoRA() lora.Config {
	c := lora.Config{Rank: a.R, Alpha: a.Alpha, Dropout: float32(a.Dropout), RSLoRA: a.RSLoRA, DoRA: a.Type == "dora", BBias: a.LoRABias,
		Exclude: a.Exclude.Names, ExcludePattern: a.Exclude.Pattern, Layers: a.Layers, LayersPattern: a.LayersPattern,
		ModulesToSave: a.ModulesToSave, Bias: lora.Bias(a.Bias), Embeddings: a.Embeddings, AlphaPattern: a.AlphaPattern, LoftQSteps: a.LoftQSteps}
	if !a.Targets.All() {
		c.Targets = lora.Targets{Pattern: a.Targets.Pattern, Names: a.Targets.Names}
	}
	if a.InitDir() == "" {
		c.Init = lora.Init(a.Init)
	}
	if len(a.Tokens) > 0 {
		c.Tokens = map[string][]int{"": a.Tokens}
	}
	for key, r := range a.RankPattern {
		if c.RankPattern == nil {
			c.RankPattern = map[string]int{}
		}
		c.RankPattern[key] = int(r)
	}
	return c
}

// adapterFields are the rows of the section adapter.
func adapterFields(a *Adapter) []field {
	const p = "adapter."
	return []field{
		{key: p + "type", value: (*textValue)(&a.Type), example: "lora", enum: adapters},
		{key: p + "r", value: (*intValue)(&a.R), example: "16"},
		{key: p + "alpha", value: (*floatValue)(&a.Alpha), example: "32"},
		{key: p + "dropout", value: (*floatValue)(&a.Dropout), example: "0.05"},
		{key: p + "targets", value: (*targetsValue)(&a.Targets), example: "[q_proj, v_proj]"},
		{key: p + "init", value: (*textValue)(&a.Init), example: "runs/first/adapter"},
		{key: p + "loftq_steps", value: (*intValue)(&a.LoftQSteps), example: "5"},
		{key: p + "rslora", value: (*boolValue)(&a.RSLoRA), example: "true"},
		{key: p + "plus_ratio", value: (*floatValue)(&a.PlusRatio), example: "16"},
		{key: p + "exclude", value: (*targetsValue)(&a.Exclude), example: "[down_proj]"},
		{key: p + "layers", value: (*intsValue)(&a.Layers), example: "[0, 1]"},
		{key: p + "layers_pattern", value: (*namesValue)(&a.LayersPattern), example: "[layers]"},
		{key: p + "rank_pattern", value: (*numbersValue)(&a.RankPattern), example: "{q_proj: 4}"},
		{key: p + "alpha_pattern", value: (*numbersValue)(&a.AlphaPattern), example: "{q_proj: 8}"},
		{key: p + "modules_to_save", value: (*namesValue)(&a.ModulesToSave), example: "[lm_head]"},
		{key: p + "embeddings", value: (*boolValue)(&a.Embeddings), example: "true"},
		{key: p + "tokens", value: (*intsValue)(&a.Tokens), example: "[5, 9]"},
		{key: p + "bias", value: (*textValue)(&a.Bias), example: "lora_only", enum: biases, since: "none"},
		{key: p + "lora_bias", value: (*boolValue)(&a.LoRABias), example: "true"},
		{key: p + "fold", value: (*textValue)(&a.Fold), example: "off", enum: folds, since: DefaultFold},
	}
}

// biases are the values of adapter.bias.
var biases = []string{"", string(lora.BiasNone), string(lora.BiasAll), string(lora.BiasLoRA)}

// folds are the values of adapter.fold.
var folds = []string{"", "auto", "off"}

func (k *checker) adapter(a Adapter) {
	if !a.On() {
		k.adapterUnread(a)
		return
	}
	k.whole("adapter.r", a.R, 1, maxRank)
	k.positive("adapter.alpha", a.Alpha)
	k.share("adapter.dropout", a.Dropout)
	k.targets("adapter.targets", a.Targets)
	if a.Exclude.Pattern != "" || a.Exclude.Names != nil {
		k.targets("adapter.exclude", a.Exclude)
	}
	if a.PlusRatio != 0 {
		k.positive("adapter.plus_ratio", a.PlusRatio)
	}
	for key, r := range a.RankPattern {
		if r != math.Trunc(r) || r < 1 || r > maxRank {
			k.fail("adapter.rank_pattern", "gives %s the rank %v, expected a whole number from 1 to %d", clip(key), r, maxRank)
		}
	}
	if a.InitDir() == "" {
		k.freshAdapter(a)
		return
	}
	if best := closest(a.Init, lora.Inits()); best != "" && !strings.ContainsAny(a.Init, `/\.`) {
		k.fail("adapter.init", "%q: did you mean %s? A directory of that name is written ./%s", clip(a.Init), best, clip(a.Init))
	}
	d := Adapter{Type: "lora", R: a.R, Alpha: a.Alpha, Dropout: a.Dropout, Targets: a.Targets, Init: a.Init, PlusRatio: a.PlusRatio, Fold: a.Fold}
	k.unreadBy(a, d, "is what the files of adapter.init say: leave it out")
}

// freshAdapter checks the settings of a new adapter together.
func (k *checker) freshAdapter(a Adapter) {
	if a.LoftQSteps != 0 && a.Init != string(lora.InitLoftQ) {
		k.fail("adapter.loftq_steps", "is read by adapter.init loftq only: leave it out, or set adapter.init loftq")
	}
	c := a.LoRA()
	if c.Rank < 1 || c.Alpha <= 0 || c.Dropout < 0 || c.Dropout >= 1 || a.Targets.Pattern == "" && a.Targets.Names == nil {
		return // said already
	}
	if err := c.Check(); err != nil {
		k.fail("adapter", "%s", strings.TrimPrefix(err.Error(), "lora: "))
	}
}

// adapterUnread refuses what only an adapter reads.
func (k *checker) adapterUnread(a Adapter) {
	if a.InitDir() != "" {
		k.fail("adapter.init", "names an adapter to start from, but adapter.type is none: set adapter.type lora, or leave adapter.init out")
		a.Init = ""
	}
	d := Adapter{Type: a.Type, R: a.R, Alpha: a.Alpha, Dropout: a.Dropout, Targets: a.Targets, Fold: a.Fold}
	k.unreadBy(a, d, "is a setting of adapters, but adapter.type is none: set adapter.type lora, or leave it out")
}

// unreadBy refuses keys that differ from those of an adapter without them.
func (k *checker) unreadBy(a, without Adapter, reason string) {
	rows, plain := adapterFields(&a), adapterFields(&without)
	for i, f := range rows {
		if !f.value.zero() && plain[i].value.zero() && !f.atDefault() {
			k.fail(f.key, "%s", reason)
		}
	}
}

type (
	intsValue    []int
	numbersValue map[string]float64
)

func (v *intsValue) zero() bool    { return len(*v) == 0 }
func (v *numbersValue) zero() bool { return len(*v) == 0 }

func (v *intsValue) set(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return mismatch("a list of whole numbers", n)
	}
	var list []int
	for _, item := range n.Content {
		i, ok := parseWhole(resolve(item))
		if !ok || i < 0 || i > math.MaxInt32 {
			return fmt.Errorf("in the list: %w", mismatch("a whole number from 0", resolve(item)))
		}
		list = append(list, int(i))
	}
	*v = list
	return nil
}

func (v *intsValue) node() *yaml.Node {
	n := listNode()
	for _, i := range *v {
		n.Content = append(n.Content, (*intValue)(&i).node())
	}
	return n
}

func (v *numbersValue) set(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return mismatch("numbers by the names or patterns of modules, such as {q_proj: 4}", n)
	}
	out := map[string]float64{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, err := readText(resolve(n.Content[i]))
		if err != nil {
			return err
		}
		if _, twice := out[name]; twice {
			return fmt.Errorf("%q is given twice", clip(name))
		}
		if out[name], err = readFloat(resolve(n.Content[i+1])); err != nil {
			return fmt.Errorf("%s: %w", clip(name), err)
		}
	}
	*v = nil
	if len(out) > 0 {
		*v = out
	}
	return nil
}

func (v *numbersValue) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle}
	var keys []string
	for key := range *v {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		n.Content = append(n.Content, textNode(key), floatNode((*v)[key]))
	}
	return n
}
