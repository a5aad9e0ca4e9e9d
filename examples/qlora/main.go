// Command qlora fine-tunes a language model whose weights are frozen in 4 bits (Dettmers et al. 2023): NF4 with doubly quantized
// scales, LoRA on every linear layer, AdamW with 8-bit states. It does with the library what `trainer finetune` does with a command.
//
//	go run ./examples/qlora                                     # the built-in model and rows; a minute
//	go run ./examples/qlora -small -out DIR                     # a few seconds
//	go run ./examples/qlora -model DIR -data rows.jsonl -out DIR
//
// The adapter in DIR loads in PEFT. Package trainer adds to this what long runs need: accumulation, evaluation, checkpoints, resume.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // a backend for device.Open to choose
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// options of a run.
type options struct {
	model, data, out    string
	steps, rows, tokens int
	lr                  float64
}

func main() {
	o := options{rows: 8, tokens: 256, lr: 2e-3}
	flag.StringVar(&o.model, "model", "builtin:tiny", "Hugging Face directory, llama2.c file, or built-in model")
	flag.StringVar(&o.data, "data", "", "JSON lines of prompt and completion; built-in rows if empty")
	flag.StringVar(&o.out, "out", "", "folder for the adapter; a temporary one if empty")
	small := flag.Bool("small", false, "a few steps only")
	flag.Parse()
	if o.steps = 200; *small {
		o.steps, o.rows = 12, 4
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "qlora:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	// Opening declares the weights and checks them against the file. None is read yet: a step can be planned before that.
	m, err := trainer.OpenModel(o.model, trainer.ModelOptions{Quantize: config.Quantize{Scheme: "nf4", Blocksize: 64, Double: true}})
	if err != nil {
		return err
	}
	dev, err := device.Open("auto")
	if err != nil {
		return errors.Join(err, m.Close())
	}
	session := plan.NewSession(plan.NewStore(dev))
	defer func() { err = errors.Join(err, session.Close(), dev.Close(), m.Close()) }()

	// Attaching freezes the model and swaps each linear layer for itself plus a product of two thin matrices.
	adapter, err := lora.Attach(m.Model, lora.Config{Rank: 8, Alpha: 16})
	if err != nil {
		return err
	}
	// Loading quantizes one tensor at a time, so the model never stands in memory in full precision.
	if err := errors.Join(m.Source.Load(session.Store()), adapter.Init(session.Store())); err != nil {
		return err
	}
	batches, err := openRows(ctx, m, &o)
	if err != nil {
		return err
	}
	if err := train(ctx, m, session, batches, o); err != nil {
		return err
	}
	if err := answer(ctx, m, session); err != nil {
		return err
	}
	fmt.Println("adapter:", o.out)
	return adapter.Save(nil, o.out, session.Store(), lora.SaveInfo{BaseModel: o.model})
}

// train compiles one step for rows of o.tokens tokens and runs it over the batches.
func train(ctx context.Context, m *trainer.Model, session *plan.Session, batches *data.Loader, o options) error {
	g := graph.New("step")
	in := func(name string) graph.Value { return g.Input(name, tensor.T(tensor.I32, o.rows, o.tokens)) }
	tokens, targets, pos, docStart := in("tokens"), in("targets"), in("pos"), in("doc_start")
	lr := g.Input("lr", tensor.T(tensor.F32))
	// Several examples share a row; positions begin again with each, and attention does not look across their borders.
	most, longest := batches.DocumentBounds()
	h := m.Hidden(models.Inputs{Tokens: tokens, Pos: pos, DocStart: docStart, Bounds: ops.DocumentBounds{Most: most, Longest: longest}})
	loss := ops.MeanLoss(m.TokenLoss(h, targets), targets)
	params := layers.Trainable(m.Model) // the adapter's: no gradient of a frozen weight is ever built
	grads, err := autograd.Grad(loss, params...)
	if err != nil {
		return err
	}
	opt, err := optim.New("adamw8bit", optim.Config{WeightDecay: 0.01})
	if err != nil {
		return err
	}
	opt.Update(g, params, grads, lr)
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: session.Store().Device(), Session: session})
	if err != nil {
		return err
	}
	printMemory(m, opt, step.Report())

	schedule := optim.Schedule{Kind: "cosine", LR: o.lr, Warmup: 0.03, Total: o.steps}
	var buf []data.Batch
	for i := range o.steps {
		if buf, err = batches.StepInto(i, buf); err != nil {
			return err
		}
		b := &buf[0]
		feed := plan.Feed{lr: schedule.At(i)}
		for v, x := range map[graph.Value][]int32{tokens: b.Tokens, targets: b.Shift(nil), pos: b.Pos, docStart: b.DocStart} {
			if feed[v], err = tensor.Of(x, o.rows, o.tokens); err != nil {
				return err
			}
		}
		res, err := step.Run(ctx, feed)
		if err != nil {
			return err
		}
		if i%max(o.steps/10, 1) == 0 || i == o.steps-1 {
			fmt.Printf("step %3d  loss %.4f\n", i+1, res.Float(loss))
		}
	}
	return step.Close()
}
