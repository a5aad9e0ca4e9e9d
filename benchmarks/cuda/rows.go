package main

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Row is one line of the table. Work and Detail together name it, here and in the peers' program.
type Row struct {
	Work   string  // what is done, in the words of benchmarks/RESULTS.md
	Detail string  // shape, dtype, options
	Bytes  float64 // that one call must move at least; 0: arithmetic bounds it
	Flops  float64 // operations of one call; 0: memory bounds it
	Make   func(r *rig) (*work, error)
}

// rows is the registry; each file of rows adds its own from init.
var rows []Row

func add(r ...Row) { rows = append(rows, r...) }

// operand is an input of an op.
type operand struct {
	t    tensor.Type
	fill fill
	ramp int        // i32 values 0, ramp, 2·ramp ... instead of fill
	ints []int32    // values instead of fill
	made device.Ptr // memory that has its values already, the same for all sets of operands
}

// fill is what an operand holds.
type fill int

const (
	normal fill = iota // standard normal floats; for integers bytes of all values
	scales             // floats from 0.5 to 1.5
	zeros
	small   // floats about 1e-3
	large   // floats about 100
	planted // standard normal floats, eight columns of each 4096 about 20
)

func floats(d tensor.DType, dims ...int) operand { return operand{t: tensor.T(d, dims...)} }

func filled(f fill, d tensor.DType, dims ...int) operand {
	return operand{t: tensor.T(d, dims...), fill: f}
}
