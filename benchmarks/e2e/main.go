// Command e2e runs whole trainings on a device and compares them with the processor, with themselves and with their plan: the loss curve,
// float16 with dynamic loss scaling, resumption bit by bit, memory over thousands of steps, memory against the plan, two processes on one device, cold starts.
//
//	CGO_ENABLED=0 go build -o e2e ./benchmarks/e2e && ./e2e --device cuda
//
// It needs no file. Every check prints a line; the exit code is 1 when one failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"
	_ "github.com/bitsandbyes/bitsandbyes/device/cuda"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// checks are all of them, in order.
var checks = []struct {
	name string
	run  func(s *suite) (string, error)
}{
	{"curve", (*suite).curve}, {"float16", (*suite).float16}, {"resume", (*suite).resume}, {"steady", (*suite).steady}, {"planned", (*suite).planned},
	{"offload", (*suite).offload}, {"two", (*suite).two},
	{"cold", (*suite).cold},
}

// suite is what the checks share.
type suite struct {
	ctx    context.Context
	device string
	dir    string // for run directories
	rows   int    // of a step
	seq    int    // tokens a row, at most
	steps  int    // of a curve
	scaled int    // of the run whose loss scale overflows
	long   int    // of the steady run
	starts int    // cold ones
	shape  string // of the planned run
	runs   int
}

func main() {
	s := &suite{ctx: context.Background()}
	flag.StringVar(&s.device, "device", "auto", "device to check")
	flag.IntVar(&s.rows, "rows", 12, "rows of a step")
	flag.IntVar(&s.seq, "seq", 128, "most tokens of a row")
	flag.IntVar(&s.scaled, "scaled", 40, "steps of the run in float16 whose gradients overflow; about 20 are the least")
	flag.IntVar(&s.steps, "steps", 200, "steps of a loss curve")
	flag.IntVar(&s.long, "long", 2000, "steps over which memory stays constant")
	flag.IntVar(&s.starts, "starts", 10, "cold starts")
	flag.StringVar(&s.shape, "shape", "llama-3.2-1b", "shape whose memory is compared with its plan")
	only := flag.String("only", "", "checks to run, with commas; empty: all")
	child := flag.Int("child", 0, "used by the checks themselves: train so many steps and print the digest")
	flag.Parse()
	if err := s.main(*only, *child); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

// known refuses names of checks that there are not: nothing would run, and nothing fail.
func known(only string) error {
	if only == "" {
		return nil
	}
	var names []string
	for _, c := range checks {
		names = append(names, c.name)
	}
	for _, n := range strings.Split(only, ",") {
		if !slices.Contains(names, n) {
			return fmt.Errorf("-only: there is no check %q; there are %s", n, strings.Join(names, ", "))
		}
	}
	return nil
}

func (s *suite) main(only string, child int) (err error) {
	if err := known(only); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "e2e-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if child > 0 {
		c := s.config(child)
		c.Deterministic = true
		sum, err := s.train(c, trainer.Hooks{})
		if err == nil {
			fmt.Println(sum.WeightsDigest)
		}
		return err
	}
	failed := 0
	for _, c := range checks {
		if only != "" && !slices.Contains(strings.Split(only, ","), c.name) {
			continue
		}
		began := time.Now()
		text, err := c.run(s)
		verdict := "ok  "
		if err != nil {
			verdict, failed = "FAIL", failed+1
			text = strings.TrimSpace(text + " " + err.Error())
		}
		fmt.Printf("%s %-8s %6.1f s  %s\n", verdict, c.name, time.Since(began).Seconds(), text)
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return nil
}

// config is the built-in QLoRA run.
func (s *suite) config(steps int) config.Config {
	c := config.Default(config.Finetune)
	c.Model, c.Data.Path, c.Data.SeqLen = "builtin:tiny", []config.Source{{Path: config.BuiltinData, Weight: 1}}, s.seq
	c.Adapter.R, c.Adapter.Alpha, c.Device = 8, 16, s.device
	t := &c.Train
	t.Optimizer, t.Min8bitSize, t.Steps, t.Batch, t.MicroBatch, t.LR = "adamw8bit", 0, steps, s.rows, s.rows, 5e-3
	c.Save.Every = 0
	s.runs++
	c.Out = filepath.Join(s.dir, fmt.Sprintf("run%d", s.runs))
	return c
}

func (s *suite) train(c config.Config, h trainer.Hooks) (*trainer.Summary, error) {
	return trainer.Run(s.ctx, c, h)
}

// losses trains and returns the loss of every step.
func (s *suite) losses(c config.Config) ([]float64, *trainer.Summary, error) {
	var out []float64
	sum, err := s.train(c, trainer.Hooks{OnStep: func(r report.Row) error {
		out = append(out, r.Loss)
		return nil
	}})
	return out, sum, err
}

// open opens the device for checks that look at its memory.
func (s *suite) open() (device.Device, error) { return device.Open(s.device) }
