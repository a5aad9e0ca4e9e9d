// Command gpt trains a small GPT on the characters of any text and lets it write.
//
//	go run ./examples/gpt -data FILE.txt   # your text; about two minutes
//	go run ./examples/gpt -small           # built-in stories; a few seconds
//	go run ./examples/gpt -out DIR         # also writes DIR/sample.txt
//
// The model is put together from package layers in model.go, the text is cut into batches in text.go; this file is the training loop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // a backend for device.Open to choose
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// sizes of a run.
type sizes struct {
	Dim, Heads, Layers int
	Batch, Len, Steps  int
	LR                 float64
}

func main() {
	small := flag.Bool("small", false, "a smaller model, for a few seconds")
	path := flag.String("data", "", "text file to learn; built-in stories if empty")
	out := flag.String("out", "", "folder for the sample")
	flag.Parse()
	s := sizes{Dim: 128, Heads: 4, Layers: 4, Batch: 12, Len: 128, Steps: 800, LR: 2e-3}
	if *small {
		s = sizes{Dim: 64, Heads: 4, Layers: 2, Batch: 8, Len: 64, Steps: 200, LR: 5e-3}
	}
	if err := run(context.Background(), s, *path, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gpt:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s sizes, path, out string) (err error) {
	txt, err := readText(path)
	if err != nil {
		return err
	}
	dev, err := device.Open("auto")
	if err != nil {
		return err
	}
	session := plan.NewSession(plan.NewStore(dev))
	defer func() { err = errors.Join(err, session.Close(), dev.Close()) }()
	src := layers.NewSource(layers.Options{Seed: 1})
	model := newGPT(src, s, len(txt.chars))
	if err := errors.Join(src.Err(), src.Load(session.Store())); err != nil {
		return err
	}
	if err := train(ctx, model, session, s, txt); err != nil {
		return err
	}
	written, err := sample(ctx, model, session, s, txt)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", written)
	if out == "" {
		return nil
	}
	return errors.Join(os.MkdirAll(out, 0o755), os.WriteFile(filepath.Join(out, "sample.txt"), []byte(written+"\n"), 0o644))
}

// train is the whole loop: a graph, its gradients, an optimizer, a plan, and batches to feed it.
func train(ctx context.Context, model *gpt, session *plan.Session, s sizes, txt *text) error {
	g := graph.New("train")
	tok, tgt := g.Input("tokens", tensor.T(tensor.I32, s.Batch, s.Len)), g.Input("targets", tensor.T(tensor.I32, s.Batch, s.Len))
	lr := g.Input("lr", tensor.T(tensor.F32))
	loss := ops.CrossEntropy(model.forward(tok), tgt)
	params := layers.Trainable(model)
	grads, err := autograd.Grad(loss, params...)
	if err != nil {
		return err
	}
	opt, err := optim.New("adamw", optim.Config{WeightDecay: 0.01})
	if err != nil {
		return err
	}
	opt.Update(g, params, grads, lr)
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: session.Store().Device(), Session: session})
	if err != nil {
		return err
	}
	schedule := optim.Schedule{Kind: "cosine", LR: s.LR, Warmup: 0.05, Total: s.Steps}
	start := time.Now()
	for i := range s.Steps {
		tokens, targets, err := txt.batch(s.Batch, s.Len)
		if err != nil {
			return err
		}
		out, err := step.Run(ctx, plan.Feed{tok: tokens, tgt: targets, lr: schedule.At(i)})
		if err != nil {
			return err
		}
		if i%(s.Steps/10) == 0 || i == s.Steps-1 {
			fmt.Printf("step %4d  loss %.3f  %.0f characters/s\n", i+1, out.Float(loss),
				float64((i+1)*s.Batch*s.Len)/time.Since(start).Seconds())
		}
	}
	return step.Close()
}

// sample lets the model write on from the beginning of the text. The plan reads a window of Len characters; what stands behind
// the last one written does not matter, for attention only looks back. (Package trainer's Generator keeps keys and values instead.)
func sample(ctx context.Context, model *gpt, session *plan.Session, s sizes, txt *text) (string, error) {
	g := graph.New("sample")
	tok := g.Input("tokens", tensor.T(tensor.I32, 1, s.Len))
	scores := model.forward(tok)
	step, err := plan.Compile([]graph.Value{scores}, plan.Options{Device: session.Store().Device(), Session: session})
	if err != nil {
		return "", err
	}
	written := append([]int32(nil), txt.ids[:8]...)
	for range 300 {
		window := make([]int32, s.Len)
		n := copy(window, written[max(0, len(written)-s.Len):])
		in, err := tensor.Of(window, 1, s.Len)
		if err != nil {
			return "", err
		}
		out, err := step.Run(ctx, plan.Feed{tok: in})
		if err != nil {
			return "", err
		}
		row := tensor.Data[float32](out.Tensor(scores))[(n-1)*len(txt.chars) : n*len(txt.chars)]
		written = append(written, txt.draw(row, 0.8))
	}
	return txt.decode(written), step.Close()
}
