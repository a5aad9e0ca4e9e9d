// Command trainings measures whole training steps and generation on a GPU beside transformers, PEFT, bitsandbytes and unsloth, one process
// after another on the same device, and prints a table:
//
//	go build ./cmd/trainer && go run ./benchmarks/trainings -python python3 -peers hf,unsloth -plots docs/gpu
//	go run ./benchmarks/trainings -only "qlora 8b 1x4096" -out measured.jsonl
//	go run ./benchmarks/trainings -read measured.jsonl -plots docs/gpu        # the table and the pictures again
//
// Our figures are those of `trainer bench`: random weights, the loop, loader, clipping and logging of `trainer finetune`. Theirs are those of
// benchmarks/peers/python/cuda_train.py; both count padded positions as tokens, so that rows compare. Rows of theirs hold one document each.
// Packed rows of ours hold several, whose attention is less work; the row "of one document" beside them is theirs exactly.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// options are the flags.
type options struct {
	trainer, python, script, peers, device string
	only, read, out, plots                 string
	steps                                  int
}

func main() {
	if err := command(context.Background(), os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "trainings:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var all []figure
	if o.read != "" {
		all, err = read(o.read)
	} else {
		all, err = measure(ctx, o)
	}
	if err != nil {
		return err
	}
	printTable(out, all)
	if o.plots == "" {
		return nil
	}
	return draw(o.plots, all)
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("trainings", flag.ContinueOnError)
	f.StringVar(&o.trainer, "trainer", "./trainer", "the program, as go build ./cmd/trainer makes it")
	f.StringVar(&o.python, "python", "", "a Python with torch, transformers, peft and bitsandbytes; empty: no peers")
	f.StringVar(&o.script, "script", "benchmarks/peers/python/cuda_train.py", "the peers' program")
	f.StringVar(&o.peers, "peers", "hf,unsloth", "peers to measure")
	f.StringVar(&o.device, "device", "cuda", "our device")
	f.StringVar(&o.only, "only", "", "names of rows, with commas; empty: all")
	f.StringVar(&o.read, "read", "", "show figures of this file and measure nothing")
	f.StringVar(&o.out, "out", "", "append figures to this file, one JSON object a line")
	f.StringVar(&o.plots, "plots", "", "write pictures into this folder")
	f.IntVar(&o.steps, "steps", 8, "steps that are measured")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	return o, known(o.only)
}

// figure is one measured row of one framework.
type figure struct {
	Row     string  `json:"row"`
	Peer    string  `json:"peer"` // "here" for ours
	Tokens  float64 `json:"tokens_per_second,omitempty"`
	Memory  int64   `json:"memory_bytes,omitempty"` // allocated at most, without the context
	Beside  int64   `json:"beside_bytes,omitempty"` // context, libraries, kernels and graphs
	Planned int64   `json:"planned_bytes,omitempty"`
	MFU     float64 `json:"mfu,omitempty"`
	PerTok  float64 `json:"ms_per_token,omitempty"`
	Device  string  `json:"device,omitempty"`
	Error   string  `json:"error,omitempty"`
}

func measure(ctx context.Context, o options) ([]figure, error) {
	var all []figure
	for _, r := range rows {
		if !wanted(o.only, r.name) {
			continue
		}
		here, err := ours(ctx, o, r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		got := append([]figure{here}, theirs(ctx, o, r)...)
		if err := keep(o.out, got); err != nil {
			return nil, err
		}
		all = append(all, got...)
	}
	return all, nil
}

func wanted(only, name string) bool {
	return only == "" || slices.Contains(strings.Split(only, ","), name)
}

// known refuses names of rows that there are not.
func known(only string) error {
	if only == "" {
		return nil
	}
	for _, n := range strings.Split(only, ",") {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.name == n }) {
			var names []string
			for _, r := range rows {
				names = append(names, r.name)
			}
			return fmt.Errorf("-only: there is no row %q; there are %s", n, strings.Join(names, ", "))
		}
	}
	return nil
}

// bench is what is read of the output of `trainer bench --json`.
type bench struct {
	Device    string  `json:"device"`
	Peak      int64   `json:"peak_bytes"`
	Planned   int64   `json:"planned_bytes"`
	Overhead  int64   `json:"overhead_bytes"`
	Positions float64 `json:"positions_per_s"`
	MFU       float64 `json:"mfu"`
	Token     float64 `json:"generate_token_seconds"`
}

func ours(ctx context.Context, o options, r row) (figure, error) {
	args := append([]string{"bench", "--json", "--device", o.device, "--profile", "-1", "--steps", strconv.Itoa(o.steps)}, r.args...)
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, o.trainer, args...)
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if err != nil {
		return figure{}, fmt.Errorf("%s %s: %w: %s", o.trainer, strings.Join(args, " "), err, last(stderr.String()))
	}
	var b bench
	if err := json.Unmarshal(raw, &b); err != nil {
		return figure{}, err
	}
	return figureOf(r, b), nil
}

func figureOf(r row, b bench) figure {
	f := figure{Row: r.name, Peer: "here", Device: b.Device}
	if r.generates {
		f.PerTok = b.Token * 1e3
		return f
	}
	f.Tokens, f.Memory, f.Planned, f.Beside, f.MFU = b.Positions, b.Peak, b.Planned, b.Overhead, b.MFU
	return f
}

// theirs runs the peers that have the row. One that fails is a result: its figure holds the error.
func theirs(ctx context.Context, o options, r row) []figure {
	var out []figure
	if o.python == "" || !r.peers {
		return nil
	}
	for _, peer := range strings.Split(o.peers, ",") {
		f := figure{Row: r.name, Peer: peer}
		raw, err := exec.CommandContext(ctx, o.python, o.script, "--peers", peer, "--rows", r.name, "--steps", strconv.Itoa(o.steps)).Output()
		if err == nil {
			err = json.Unmarshal([]byte(last(string(raw))), &f)
		}
		if err != nil {
			f.Error = err.Error()
		}
		out = append(out, f)
	}
	return out
}

// last is the last line of a text.
func last(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
