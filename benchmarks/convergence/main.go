// Command convergence measures what training and inference in few bits costs in quality, and writes tables and pictures:
//
//	go run ./benchmarks/convergence                        # every experiment; about half an hour on two cores
//	go run ./benchmarks/convergence -only ablation,int8    # these
//	go run ./benchmarks/convergence -quick -out DIR        # each at a small size, to see that it runs
//
// The experiments follow the papers behind the formats: 8-bit optimizers (Dettmers et al. 2022, arXiv 2110.02861), LLM.int8()
// (Dettmers et al. 2022, arXiv 2208.07339) and QLoRA (Dettmers et al. 2023, arXiv 2305.14314), on models small enough for a CPU. Data,
// seeds and hyperparameters are fixed, so a second run on the same processor gives the same tables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // a backend for device.Open to choose
)

// env is what an experiment gets.
type env struct {
	dev   device.Device
	out   string // folder of the pictures
	quick bool
	seeds int
	log   func(format string, args ...any)
}

// pick is full at full size, and small with -quick.
func (e *env) pick(full, small int) int {
	if e.quick {
		return small
	}
	return full
}

// experiment fills a page.
type experiment struct {
	name, title string
	run         func(ctx context.Context, e *env, p *page) error
}

var experiments = []experiment{
	{"optimizers", "8-bit against 32-bit optimizers", runOptimizers},
	{"ablation", "What makes 8-bit Adam stable", runAblation},
	{"adapters", "QLoRA, LoRA and full fine-tuning", runAdapters},
	{"int8", "LLM.int8() with outlier features", runInt8},
	{"fourbit", "NF4, FP4 and other formats of few bits", runFourBit},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "convergence:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context) (err error) {
	out := flag.String("out", "docs/convergence", "folder of the tables and pictures")
	only := flag.String("only", "", "names of experiments, separated by commas; empty: all")
	quick := flag.Bool("quick", false, "small sizes, to see that everything runs")
	seeds := flag.Int("seeds", 5, "seeds where several are run")
	flag.Parse()
	names := strings.Split(*only, ",")
	dev, err := device.Open("cpu")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if err := os.MkdirAll(*out, 0o777); err != nil {
		return err
	}
	e := &env{dev: dev, out: *out, quick: *quick, seeds: *seeds, log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	if e.quick {
		e.seeds = 1
	}
	for _, x := range experiments {
		if *only != "" && !slices.Contains(names, x.name) {
			continue
		}
		p := &page{name: x.name, title: x.title, dir: *out}
		if err := x.run(ctx, e, p); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		p.foot(dev, e)
		if err := os.WriteFile(filepath.Join(*out, x.name+".md"), p.text.Bytes(), 0o666); err != nil {
			return err
		}
	}
	return nil
}
