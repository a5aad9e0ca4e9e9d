package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// A prompt of promptTokens is read up to the scores of the next token; textTokens are written from the start of a text, greedily. These are
// the tests pp512 and tg128 of llama-bench.
const promptTokens, textTokens = 512, 128

// smolVariable names the file of SmolLM2-135M; internal/golden knows the same.
const smolVariable = "BYES_SMOLLM2"

// smolFile is the GGUF file of SmolLM2-135M-Instruct.
func smolFile() (string, error) {
	if path := os.Getenv(smolVariable); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("no model (set %s to the GGUF file that smollm2/README.md of the reference data tells how to get)", smolVariable)
}

// smolCase reads a prompt or writes a text with the model's linear layers in NF4 and its table in float16, as trainer generate --quantize nf4
// has them.
func smolCase(prompt bool) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		path, err := smolFile()
		if err != nil {
			return nil, err
		}
		m, err := trainer.OpenModel(path, trainer.ModelOptions{Quantize: config.Quantize{Scheme: "nf4", Double: true}, Tables: tensor.F16})
		if err != nil {
			return nil, err
		}
		session := plan.NewSession(plan.NewStore(dev))
		if err := m.Source.Load(session.Store()); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		gen, err := trainer.NewGenerator(m.Model, session, 1, 2*promptTokens)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		ids, n := []int32{1}, textTokens
		if prompt {
			n = 1
			for i := len(ids); i < promptTokens; i++ {
				ids = append(ids, int32(i*7919%m.Config().Vocab))
			}
		}
		call := func(ctx context.Context) error {
			return gen.Generate(ctx, [][]int32{ids}, n, trainer.Sampling{}, func(int, int32) bool { return true })
		}
		return &bench{call: call, close: func() error { return errors.Join(gen.Close(), session.Close(), m.Close()) }}, nil
	}
}

// runLlamaBench has llama-bench, llama.cpp's own program, read and write with the file as it is and with one whose matrices are in Q4_0 instead.
func runLlamaBench(ctx context.Context, o options, prompt, text *figure) (notes []string, err error) {
	path, err := smolFile()
	if err != nil {
		return nil, fmt.Errorf("llama.cpp: %w", err)
	}
	dir, err := os.MkdirTemp("", "llamacpp")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	other := filepath.Join(dir, "q4_0.gguf")
	if _, err := trainer.Export(ctx, trainer.ExportOptions{Model: path, Out: other, Type: "q4_0"}); err != nil {
		return nil, fmt.Errorf("llama.cpp: %w", err)
	}
	for _, m := range []struct{ name, path string }{{"llama.cpp, the file", path}, {"llama.cpp, Q4_0", other}} {
		out, err := exec.CommandContext(ctx, o.llamaBench, "-m", m.path, "-t", strconv.Itoa(either(prompt, text).threads), "-p", strconv.Itoa(promptTokens),
			"-n", strconv.Itoa(textTokens), "-r", "5", "-o", "json").Output()
		if err != nil {
			return notes, fmt.Errorf("llama.cpp: %s: %w", o.llamaBench, err)
		}
		note, err := storeLlamaBench(out, m.name, prompt, text)
		if err != nil {
			return notes, err
		}
		notes = append(notes, note)
	}
	return notes, nil
}

func either(a, b *figure) *figure {
	if a != nil {
		return a
	}
	return b
}

// storeLlamaBench keeps the best sample of each test and returns which build it was.
func storeLlamaBench(out []byte, name string, prompt, text *figure) (note string, err error) {
	var tests []struct {
		Build   string    `json:"build_commit"`
		Model   string    `json:"model_type"`
		Prompt  int       `json:"n_prompt"`
		Text    int       `json:"n_gen"`
		Samples []float64 `json:"samples_ns"`
	}
	if err := json.Unmarshal(out, &tests); err != nil {
		return "", fmt.Errorf("llama.cpp: what llama-bench printed: %w", err)
	}
	for _, t := range tests {
		f := text
		if t.Prompt > 0 {
			f = prompt
		}
		for _, ns := range t.Samples {
			if f != nil && ns > 0 {
				f.add(name, ns/1e9)
			}
		}
		note = fmt.Sprintf("%s: %s, commit %s.", name, t.Model, t.Build)
	}
	if note == "" {
		return "", errors.New("llama.cpp: llama-bench printed no test")
	}
	return note, nil
}
