// Command kernels times the CPU kernels of this module beside the limits of the machine and beside other libraries, and prints a table:
//
//	go run ./benchmarks/kernels                              # this module and the limits
//	go run ./benchmarks/kernels -python python3              # and PyTorch, bitsandbytes and PEFT, where that Python has them
//	go run ./benchmarks/kernels -only gemm,nf4 -threads 2    # rows whose name begins so, on two threads
//	go run ./benchmarks/kernels -check                       # ratios to the Go twins and to the limits; fails on a regression
//
// Every figure is the best of several short rounds. Peers run between two rounds of ours in the same minutes, and a probe of the
// machine's arithmetic and memory runs with each row. Work that memory bounds goes in turn over operands of 512 MB and more. Close other
// programs first: the peers' figures suffer from company too, but not by the same amount.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// options are the flags.
type options struct {
	threads    []int
	only       []string
	python     string
	peersDir   string
	llama2c    string
	llamaBench string
	seconds    float64
	check      bool
	twin       bool
	markdown   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out, log io.Writer) error {
	o, err := parse(args)
	if err := errors.Join(err, isa.Err()); err != nil {
		return err
	}
	if o.twin {
		return printTwins(ctx, o, out)
	}
	if o.check {
		return check(ctx, o, out)
	}
	t, err := measureTable(ctx, o, log)
	if err != nil {
		return err
	}
	t.print(out)
	if o.markdown == "" {
		return nil
	}
	f, err := os.Create(o.markdown)
	if err != nil {
		return err
	}
	t.markdown(f)
	return f.Close()
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("kernels", flag.ContinueOnError)
	threads := f.String("threads", threadCounts(), "numbers of threads, separated by commas")
	only := f.String("only", "", "beginnings of names of rows, separated by commas; empty: all")
	f.StringVar(&o.python, "python", "", "a Python with torch, bitsandbytes, transformers and peft to compare with; empty: none")
	f.StringVar(&o.peersDir, "peers", "benchmarks/peers", "folder of the peers' programs")
	f.StringVar(&o.llama2c, "llama2c", "", "run.c of llama2.c; empty: look in the reference data")
	f.StringVar(&o.llamaBench, "llama-bench", "", "llama-bench of llama.cpp, built for this machine, to compare SmolLM2 with; empty: none")
	f.Float64Var(&o.seconds, "seconds", 1, "time for each figure of ours")
	f.BoolVar(&o.check, "check", false, "compare ratios with their floors and fail below one")
	f.BoolVar(&o.twin, "twin", false, "print the times of the check's cases and nothing else; the check runs itself so for the Go twins")
	f.StringVar(&o.markdown, "markdown", "", "also write the table to this file")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see -h", f.Arg(0))
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, w := range strings.Split(*threads, ",") {
		n, err := strconv.Atoi(w)
		if err != nil || n < 1 || n > 1024 {
			return o, fmt.Errorf("-threads %q: want numbers from 1 to 1024 with commas between", *threads)
		}
		o.threads = append(o.threads, n)
	}
	if !(o.seconds > 0 && o.seconds <= 600) {
		return o, fmt.Errorf("-seconds %v: want more than 0 and at most 600", o.seconds)
	}
	return o, nil
}

// threadCounts is one thread and all of them.
func threadCounts() string {
	if n := runtime.GOMAXPROCS(0); n > 1 {
		return "1," + strconv.Itoa(n)
	}
	return "1"
}

// wanted reports whether a row was asked for.
func (o *options) wanted(name string) bool {
	for _, p := range o.only {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return len(o.only) == 0
}

// share of the time for one of n rounds.
func (o *options) share(n int) time.Duration {
	return time.Duration(o.seconds / float64(n) * float64(time.Second))
}
