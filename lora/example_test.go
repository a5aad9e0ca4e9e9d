package lora_test

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
)

// Attaching freezes a model and leaves two thin matrices a layer to train; merging folds them into the weights.
func ExampleAttach() {
	type network struct {
		Up   layers.Projection `name:"up_proj"`
		Down layers.Projection `name:"down_proj"`
	}
	src := layers.NewSource(layers.Options{})
	model := &network{src.Linear("up_proj", 64, 256, false), src.Linear("down_proj", 256, 64, false)}
	adapter, err := lora.Attach(model, lora.Config{Rank: 4, Alpha: 8, Targets: lora.Targets{Names: []string{"up_proj"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, v := range layers.Trainable(model) {
		fmt.Println(v)
	}
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	err = errors.Join(src.Load(store), adapter.Init(store), adapter.Merge(store))
	fmt.Println(adapter.Modules[0].Path, adapter.Config.Scale(), err)
	fmt.Println(store.Close(), dev.Close())
	// Output:
	// up_proj.lora_A.weight f32[4,64]
	// up_proj.lora_B.weight f32[256,4]
	// up_proj 2 <nil>
	// <nil> <nil>
}
