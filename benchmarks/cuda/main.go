// Command cuda times kernels of a GPU beside what the device copies and multiplies at most, and beside other libraries, and prints a table:
//
//	go run ./benchmarks/cuda                              # every row
//	go run ./benchmarks/cuda -only "dequantize,NF4 GEMV"  # rows whose work begins so
//	go run ./benchmarks/cuda -json ours.json -peers peers.json
//	go run ./benchmarks/cuda -read ours.json -peers peers.json   # the table again
//
// peers.json comes from benchmarks/peers/python/cuda_kernels.py, which times the same work in PyTorch and bitsandbytes. A figure is the median of
// nine batches, each timed by events on the stream around a recorded graph of launches. Operands rotate over 160 MB and more, beyond the
// last cache, in 64 sets at most. To run it where there is no Go: CGO_ENABLED=0 go build ./benchmarks/cuda.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cuda"
)

// options are the flags.
type options struct {
	device, json, peers, read string
	only                      []string
	batches                   int
}

func main() {
	if err := command(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cuda:", err)
		os.Exit(1)
	}
}

func command(args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	peers, err := readPeers(o.peers)
	if err != nil {
		return err
	}
	if o.read != "" {
		r, err := read(o.read)
		if err == nil {
			r.print(out, peers)
		}
		return err
	}
	dev, err := device.Open(o.device)
	if err != nil {
		return err
	}
	r, err := measure(dev, rows, o)
	if err = errors.Join(err, dev.Close()); err != nil {
		return err
	}
	r.print(out, peers)
	return r.write(o.json)
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("cuda", flag.ContinueOnError)
	f.StringVar(&o.device, "device", "cuda", "device, as in configurations")
	f.StringVar(&o.json, "json", "", "also write the figures to this file")
	f.StringVar(&o.peers, "peers", "", "figures of benchmarks/peers/python/cuda_kernels.py to print beside ours")
	f.StringVar(&o.read, "read", "", "measure nothing and print the figures of this file, which -json wrote")
	f.IntVar(&o.batches, "batches", 9, "timed batches of a row")
	only := f.String("only", "", "beginnings of the work of rows, separated by commas; empty: all")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see -h", f.Arg(0))
	}
	if o.batches < 1 || o.batches > 1000 {
		return o, fmt.Errorf("-batches %d: want 1 to 1000", o.batches)
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	return o, nil
}

// wanted reports whether a row was asked for.
func (o *options) wanted(work string) bool {
	for _, p := range o.only {
		if strings.HasPrefix(work, strings.TrimSpace(p)) {
			return true
		}
	}
	return len(o.only) == 0
}
