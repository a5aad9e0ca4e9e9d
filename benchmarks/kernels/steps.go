package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/benchmarks/step"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// The steps of the tiny Llama: 8 rows of 256 tokens.
var (
	fullF32     = step.LlamaOptions{Model: step.Tiny(), Batch: 8, Len: 256, Optimizer: "adamw"}
	loraF32     = step.LlamaOptions{Model: step.Tiny(), Batch: 8, Len: 256, Rank: 8, Optimizer: "adamw"}
	loraNF4     = step.LlamaOptions{Model: step.Tiny(), Batch: 8, Len: 256, Rank: 8, NF4: true, Optimizer: "adamw"}
	loraNF4BF16 = step.LlamaOptions{Model: step.Tiny(), Batch: 8, Len: 256, Rank: 8, NF4: true, Optimizer: "adamw", Compute: tensor.BF16}
)

func llamaCase(o step.LlamaOptions) func(*cpu.Device) (*bench, error) {
	return stepCase(func(dev device.Device) (*step.Step, error) { return step.NewLlama(dev, o) })
}

func mlpCase(dev *cpu.Device) (*bench, error) { return stepCase(step.NewMLP)(dev) }

func stepCase(open func(device.Device) (*step.Step, error)) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		s, err := open(dev)
		if err != nil {
			return nil, err
		}
		return &bench{call: func(ctx context.Context) error {
			_, err := s.Run(ctx)
			return err
		}, close: s.Close}, nil
	}
}

// storyTokens are generated from the start of a text, greedily.
const storyTokens = 200

// errNoData says that a row needs the reference data.
var errNoData = errors.New("no reference data (set BYES_TESTDATA)")

func storiesDir() (string, error) {
	root, err := dataDir()
	return filepath.Join(root, "models", "stories260K"), err
}

// storiesCase generates a text; llama2.c, which it is compared with, leaves the first token out of its figure.
func storiesCase(dev *cpu.Device) (*bench, error) {
	dir, err := storiesDir()
	if err != nil {
		return nil, err
	}
	m, err := trainer.OpenModel(dir, trainer.ModelOptions{})
	if err != nil {
		return nil, err
	}
	session := plan.NewSession(plan.NewStore(dev))
	bos, ok := m.BOS()
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s has no token that begins a text", dir), m.Close())
	}
	if err := m.Source.Load(session.Store()); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	gen, err := trainer.NewGenerator(m.Model, session, 1, 256)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	call := func(ctx context.Context) error {
		n := 0
		err := gen.Generate(ctx, [][]int32{{bos}}, storyTokens, trainer.Sampling{}, func(int, int32) bool {
			n++
			return true
		})
		if err == nil && n != storyTokens {
			err = fmt.Errorf("%d tokens generated, want %d", n, storyTokens)
		}
		return err
	}
	return &bench{call: call, close: func() error { return errors.Join(gen.Close(), session.Close(), m.Close()) }}, nil
}
