package onnx

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func vec[E tensor.Element](t *testing.T, vals ...E) *tensor.Tensor {
	t.Helper()
	x, err := tensor.Of(vals)
	require.NoError(t, err)
	return x
}

func TestCompare(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	want := vec(t, 1000, nan, inf, 0, -2)
	for _, c := range []struct {
		got       *tensor.Tensor
		ok, tight bool
	}{
		{vec(t, 1000, nan, inf, 0, -2), true, true},
		{vec(t, 1000.5, nan, inf, 5e-8, -2.0005), true, false},
		{vec(t, 1002, nan, inf, 0, -2), false, false},
		{vec(t, 1000, nan, inf, 1e-6, -2), false, false},
		{vec(t, 1000, 0, inf, 0, -2), false, false},
		{vec(t, 1000, nan, -inf, 0, -2), false, false},
		{vec(t, 1000, nan, 1e38, 0, -2), false, false},
		{vec(t, inf, nan, inf, 0, -2), false, false},
		{vec(t, 1000, nan, inf, 0), false, false},
	} {
		tight, err := compare(c.got, want)
		require.Equal(t, c.ok, err == nil, "%v: %v", c.got, err)
		require.Equal(t, c.tight, tight, "%v", c.got)
	}
	_, err := compare(vec[int32](t, 1, 2), vec[int32](t, 1, 3))
	require.Error(t, err)
	_, err = compare(vec[int32](t, 1, 2), vec[int64](t, 1, 2))
	require.ErrorContains(t, err, "i32[2], want i64[2]")
}

func TestFloat8(t *testing.T) {
	for _, c := range []struct {
		code   byte
		e4, e5 float64
	}{
		{0x00, 0, 0}, {0x01, 1.0 / 512, 1.0 / 65536}, {0x38, 1, 0.5}, {0xb8, -1, -0.5}, {0x7e, 448, math.NaN()}, {0x7c, 384, math.Inf(1)}, {0x7b, 352, 57344},
		{0x7f, math.NaN(), math.NaN()},
	} {
		for _, v := range [][2]float64{{c.e4, float8(c.code, 4, 3)}, {c.e5, float8(c.code, 5, 2)}} {
			require.True(t, v[0] == v[1] || math.IsNaN(v[0]) && math.IsNaN(v[1]), "%02x: %v", c.code, v)
		}
	}
}

// TestWrongOperatorsAreFound: a wrong value, a wrong slope, a missing output and an operator that gives up.
func TestWrongOperatorsAreFound(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	x, y, typ := "x", "y", "FLOAT"
	s := &Suite{tensors: map[string]*tensor.Tensor{"x": vec[float32](t, 1, 2), "y": vec[float32](t, 3, 6)}}
	c := &Case{Name: "c", Inputs: []*string{&x}, InputTypes: []*string{&typ}, Outputs: []*string{&y}, OutputTypes: []*string{&typ}}
	run := func(f Handler) (Result, error) {
		res := Result{Case: c}
		fixed, err := s.forward(dev, Operator{Build: f}, &res)
		if err == nil {
			res.Checked, err = s.gradient(dev, Operator{Build: f}, c, fixed)
		}
		return res, err
	}
	triple := func(n *Node) []graph.Value { return one(ops.Scale(n.In(0), 3)) }
	res, err := run(triple)
	require.NoError(t, err)
	require.True(t, res.Checked)

	_, err = run(func(n *Node) []graph.Value { return one(ops.Scale(n.In(0), 3.1)) })
	require.ErrorContains(t, err, "output 0: element 0")
	_, err = run(func(n *Node) []graph.Value {
		x := n.In(0) // the right value, half of its slope cut off
		return one(ops.Add(ops.Scale(x, 1.5), n.Graph().Apply(ops.Barrier{}, ops.Scale(x, 1.5))[0]))
	})
	require.ErrorContains(t, err, "central differences")
	_, err = run(func(*Node) []graph.Value { return nil })
	require.ErrorContains(t, err, "output 0 is missing")
	res, err = run(func(n *Node) []graph.Value { return n.Fail("string tensors") })
	require.ErrorIs(t, err, errCannot)
	require.Equal(t, "string tensors", res.Reason)
	_, err = run(func(n *Node) []graph.Value { return one(ops.Add(n.In(0), n.Graph().Const(tensor.Scalar(1.0)))) })
	require.ErrorContains(t, err, "dtypes differ")
	res, err = run(func(n *Node) []graph.Value { return one(n.Graph().Const(tripled(n.Host(0)))) })
	require.NoError(t, err)
	require.False(t, res.Checked, "an input that is read while building is no variable")
}

func tripled(t *tensor.Tensor) *tensor.Tensor {
	out := t.Clone()
	for i := range out.Type().Size() {
		out.Set(i, 3*t.At(i))
	}
	return out
}

func TestAttributes(t *testing.T) {
	n := &Node{graph: graph.New("g"), attrs: map[string]json.RawMessage{}}
	require.NoError(t, json.Unmarshal([]byte(`{"f":0.5,"i":3,"s":"up","inf":"-inf","nan":["nan",1],"is":[1,2],"ss":["a"],
		"t":{"type":"INT32","shape":[1,2],"data":[4,5]},"bad":{"type":"FLOAT","shape":[3],"data":[1]}}`), &n.attrs))
	require.Equal(t, 0.5, n.Float("f"))
	require.Equal(t, 3.0, n.Float("i"))
	require.True(t, n.Bool("i") && !n.Bool("none"))
	require.Equal(t, "up", n.String("s"))
	require.True(t, math.IsInf(n.Float("inf"), -1))
	require.True(t, math.IsNaN(n.Floats("nan")[0]))
	require.Equal(t, []int{1, 2}, n.Ints("is"))
	require.Equal(t, []string{"a"}, n.Strings("ss"))
	v, typ := n.Tensor("t")
	require.Equal(t, tensor.T(tensor.I32, 1, 2), v.Type())
	require.Equal(t, "INT32", typ)
	require.NoError(t, n.err)
	n.Tensor("bad")
	require.ErrorContains(t, n.err, "do not fill shape")
	n.err = nil
	n.Int("s")
	require.ErrorContains(t, n.err, "attribute s")
}

func TestParseTensorsRefuses(t *testing.T) {
	file := func(head string, body int) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
		return append(append(b, head...), make([]byte, body)...)
	}
	for _, c := range []struct {
		data []byte
		want string
	}{
		{[]byte("abc"), "too few"}, {binary.LittleEndian.AppendUint64(nil, 99), "does not fit"}, {file("{", 0), "header"},
		{file(`{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}`, 4), "outside the file"},
		{file(`{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "needs 8 bytes"},
		{file(`{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,4]}}`, 4), "do not fill"},
		{file(`{"x":{"dtype":"F6","shape":[4],"data_offsets":[0,4]}}`, 4), `"F6" is unknown`},
	} {
		_, err := parseTensors(c.data)
		require.ErrorContains(t, err, c.want)
	}
	got, err := parseTensors(file(`{"__metadata__":{},"x":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}`, 4))
	require.NoError(t, err)
	require.Len(t, got, 1)
}
