package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// recurrenceCases run every cell both ways, over rows of equal and of different lengths.
func recurrenceCases() []Case {
	const t, b, h = 4, 3, 5
	tol := map[tensor.DType]float64{tensor.F32: 1e-5, tensor.BF16: 3e-2, tensor.F16: 4e-3} // errors of early steps grow
	a := func(gates int) Arg { return Arg{Dims: []int{t, b, gates * h}} }
	w := func(gates int) Arg { return Arg{Dims: []int{gates * h, h}, Lo: -0.5, Hi: 0.5} }
	state, bias := Arg{Dims: []int{b, h}}, Arg{Dims: []int{h}}
	lengths := Arg{Dims: []int{b}, DType: tensor.I32, Values: []float64{4, 0, 2}}
	var out []Case
	for _, reverse := range []bool{false, true} {
		o := ops.RecurrenceOptions{Reverse: reverse}
		with := func(in []graph.Value, n int) ops.RecurrenceOptions {
			o := o
			if len(in) > n {
				o.Lengths = in[n]
			}
			return o
		}
		lstm := func(_ *graph.Graph, in []graph.Value) []graph.Value {
			hs, cs := ops.LSTM(in[0], in[1], in[2], in[3], with(in, 4))
			return []graph.Value{hs, cs}
		}
		gru := func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.GRU(in[0], in[1], in[2], in[3], with(in, 4)))
		}
		rnn := func(relu bool) build {
			return func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.RNN(in[0], in[1], in[2], relu, with(in, 3)))
			}
		}
		name := func(s string) string { return fmt.Sprintf("%s_%v", s, reverse) }
		out = append(out,
			Case{Name: name("lstm"), In: []Arg{a(4), w(4), state, state}, Tol: tol, Build: lstm,
				Bad: [][]Arg{{a(3), w(4), state, state}, {a(4), w(3), state, state}, {a(4), w(4), state, bias}, {{Dims: []int{0, b, 4 * h}}, w(4), state, state}}},
			Case{Name: name("lstm_lengths"), In: []Arg{a(4), w(4), state, state, lengths}, Tol: tol, Build: lstm,
				Bad: [][]Arg{{a(4), w(4), state, state, {Dims: []int{2}, DType: tensor.I32}}}},
			Case{Name: name("gru"), In: []Arg{a(3), w(3), bias, state}, Tol: tol, Build: gru, Bad: [][]Arg{{a(3), w(3), state, state}, {a(4), w(3), bias, state}}},
			Case{Name: name("gru_lengths"), In: []Arg{a(3), w(3), bias, state, lengths}, Tol: tol, Build: gru},
			Case{Name: name("rnn_tanh"), In: []Arg{a(1), w(1), state}, Tol: tol, Build: rnn(false), Bad: [][]Arg{{a(2), w(1), state}}},
			Case{Name: name("rnn_relu"), In: []Arg{a(1), w(1), state, lengths}, Tol: tol, Build: rnn(true)})
	}
	return append(out, Case{Name: "lstm_no_rows", In: []Arg{{Dims: []int{2, 0, 8}}, {Dims: []int{8, 2}}, {Dims: []int{0, 2}}, {Dims: []int{0, 2}}}, Order: 1,
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
			hs, cs := ops.LSTM(in[0], in[1], in[2], in[3], ops.RecurrenceOptions{})
			return []graph.Value{hs, cs}
		}})
}
