package layers_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
)

// A model in memory is quantized in place: its projections are replaced by layers of the same sizes, the head stays.
func ExampleReplace() {
	type network struct {
		Up   layers.Projection `name:"mlp.up_proj"`
		Down layers.Projection `name:"mlp.down_proj"`
		Head layers.Projection `name:"lm_head"`
	}
	src := layers.NewSource(layers.Options{})
	model := &network{src.Linear("mlp.up_proj", 64, 256, true), src.Linear("mlp.down_proj", 256, 64, false), src.Linear("lm_head", 64, 32, false)}
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	fmt.Println(src.Load(store), store.Bytes())

	done, err := layers.Replace(model, layers.ReplaceOptions{New: layers.Quantizing(store, quant.Config{Scheme: quant.Int8, Threshold: 6})})
	for _, r := range done {
		fmt.Println(r)
	}
	fmt.Println(err, store.Bytes())
	fmt.Println(store.Close(), dev.Close())
	// Output:
	// <nil> 140288
	// mlp.up_proj: *layers.Linear -> *layers.Linear8bitLt
	// mlp.down_proj: *layers.Linear -> *layers.Linear8bitLt
	// <nil> 43264
	// <nil> <nil>
}
