package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// printMemory shows where the bytes are.
func printMemory(m *trainer.Model, opt *optim.Optimizer, r plan.Report) {
	var weights, states int64
	layers.Walk(m.Model, func(p layers.Param) {
		if p.Quantized != nil {
			weights += p.Quantized.Bytes()
		} else {
			weights += p.Type.Bytes()
		}
	})
	for _, v := range opt.StateVars() {
		states += v.Type.Bytes()
	}
	fmt.Printf("weights and adapter %.2f MB, optimizer %.2f MB, activations and gradients %.2f MB\n", float64(weights)/1e6,
		float64(states)/1e6, float64(r.Arena)/1e6)
}

// answer shows what the model says to prompts that it has not been trained on.
func answer(ctx context.Context, m *trainer.Model, session *plan.Session) (err error) {
	_, held := corpus.FineTune(1)
	held = held[:3]
	var prompts [][]int32
	for _, r := range held {
		ids, err := m.Tokenizer.Encode(r.Prompt)
		if err != nil {
			return err
		}
		prompts = append(prompts, ids)
	}
	gen, err := trainer.NewGenerator(m.Model, session, len(prompts), 256)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gen.Close()) }()
	answers := make([][]int32, len(prompts))
	err = gen.Generate(ctx, prompts, 40, trainer.Sampling{}, func(row int, id int32) bool {
		answers[row] = append(answers[row], id)
		return !slices.Contains(m.EOS(), id)
	})
	for i, r := range held {
		text := m.Tokenizer.DecodeWith(answers[i], tokenizer.DecodeOptions{SkipSpecial: true})
		fmt.Printf("%s\n  model:%s\n  right:%s\n", r.Prompt, text, r.Completion)
	}
	return err
}
