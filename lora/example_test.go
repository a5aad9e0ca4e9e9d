package lora_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/quant"
)

// An adapter is saved in PEFT's layout, and put on another copy of the model: the folder can as well come from PEFT, or go to it.
func ExampleAttachSaved() {
	type network struct {
		Up   layers.Projection `name:"up_proj"`
		Down layers.Projection `name:"down_proj"`
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	dev := cpu.New(cpu.Options{Threads: 1})
	// open returns the base model, its weights in 4 bits, with its own store.
	open := func() (*network, *plan.Store, error) {
		src := layers.NewSource(layers.Options{Seed: 1, Quantize: func(string) (quant.Config, bool) {
			return quant.Config{Scheme: quant.NF4, Double: true}, true
		}})
		model := &network{src.Linear("up_proj", 64, 256, false), src.Linear("down_proj", 256, 64, false)}
		store := plan.NewStore(dev)
		return model, store, errors.Join(src.Check(model), src.Load(store))
	}

	model, store, err := open()
	if err != nil {
		fmt.Println(err)
		return
	}
	adapter, err := lora.Attach(model, lora.Config{Rank: 4, Alpha: 8})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = errors.Join(adapter.Init(store), adapter.Save(nil, dir, store, lora.SaveInfo{BaseModel: "org/base"}))
	fmt.Println(len(adapter.Modules), err)

	again, values, err := open()
	if err != nil {
		fmt.Println(err)
		return
	}
	saved, err := lora.Load(nil, dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	loaded, err := lora.AttachSaved(again, saved, values)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(saved.BaseModel, loaded.Config.Rank, loaded.Modules[1].Path)
	fmt.Println(errors.Join(store.Close(), values.Close(), dev.Close()))
	// Output:
	// 2 <nil>
	// org/base 4 down_proj
	// <nil>
}

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
