package layers_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A model is a struct whose tags are the names in files. The same struct holds full and 4-bit layers: the source decides.
func ExampleSource() {
	type network struct {
		Up   layers.Projection `name:"up_proj"`
		Down layers.Projection `name:"down_proj"`
	}
	src := layers.NewSource(layers.Options{Quantize: func(name string) (quant.Config, bool) {
		return quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, name == "mlp.up_proj.weight"
	}})
	mlp := src.Sub("mlp")
	model := &network{mlp.Linear("up_proj", 64, 256, false), mlp.Linear("down_proj", 256, 64, true)}
	for _, p := range layers.Params(model) {
		fmt.Println(p.Name, p.Type, p.Quantized != nil)
	}

	// Nothing is in memory yet; a store takes the values.
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	fmt.Println(src.Load(store), store.Bytes())

	g := graph.New("forward")
	x := g.Input("x", tensor.T(tensor.F32, 2, 10, 64))
	fmt.Println(model.Down.Forward(ops.SiLU(model.Up.Forward(x))).Type(), g.Err())
	fmt.Println(store.Close(), dev.Close())
	// Output:
	// up_proj.weight f32[256,64] true
	// down_proj.weight f32[64,256] false
	// down_proj.bias f32[64] false
	// <nil> 74248
	// f32[2,10,64] <nil>
	// <nil> <nil>
}

// A small image classifier: the struct's tags are PyTorch's names, and the step moves the running statistics.
func ExampleConv() {
	src := layers.NewSource(layers.Options{Seed: 1})
	conv := layers.NewConv(src.Sub("conv"), 3, 16, []int{3, 3}, layers.ConvOptions{WindowOptions: ops.WindowOptions{Pad: []int{1}}})
	norm := layers.NewBatchNorm(src.Sub("bn"), 16)
	head := src.Linear("head", 16, 10, true)

	g := graph.New("step")
	x, labels := g.Input("x", tensor.T(tensor.F32, 8, 3, 32, 32)), g.Input("labels", tensor.T(tensor.I32, 8))
	y := ops.ReLU(norm.Forward(conv.Forward(x), true))
	y = layers.MaxPool{Kernel: []int{2, 2}}.Forward(y)
	fmt.Println(y.Type())
	logits := head.Forward(ops.Reshape(ops.GlobalAvgPool(y), 8, 16))
	loss := ops.ClassLoss(logits, labels, ops.ClassLossOptions{Smoothing: 0.1})
	fmt.Println(loss.Type(), len(g.Writes()), g.Err())
	// Output:
	// f32[8,16,16,16]
	// f32[] 3 <nil>
}
