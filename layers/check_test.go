package layers_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestCheck: weights that a walk over the model does not meet, or meets under another name, are named.
func TestCheck(t *testing.T) {
	type good struct {
		A layers.Projection `name:"a"`
		B *layers.Linear    `name:"b"`
		N *layers.BatchNorm `name:"n"`
	}
	type unexported struct {
		A layers.Projection `name:"a"`
		b *layers.Linear    `name:"b"`
		N *layers.BatchNorm `name:"n"`
	}
	type untagged struct {
		A layers.Projection
		B *layers.Linear
		N *layers.BatchNorm `name:"n"`
	}
	type renamed struct {
		A layers.Projection `name:"up"`
		B *layers.Linear    `name:"b"`
		N *layers.BatchNorm `name:"n"`
	}
	for _, quantized := range []bool{false, true} {
		src := layers.NewSource(layers.Options{Quantize: func(name string) (quant.Config, bool) {
			return quant.Config{Double: true}, quantized && name == "net.a.weight"
		}})
		net := src.Sub("net")
		a, b, n := net.Linear("a", 64, 4, true), net.Linear("b", 4, 4, false).(*layers.Linear), layers.NewBatchNorm(net.Sub("n"), 4)
		require.NoError(t, net.Check(&good{a, b, n}))
		require.NoError(t, src.Check(&struct {
			Net *good `name:"net"`
		}{&good{a, b, n}}))
		require.NoError(t, net.Sub("n").Check(n))
		require.ErrorContains(t, net.Check(&unexported{a, b, n}), "no field of *layers_test.unexported leads to net.b.weight: fields")
		require.ErrorContains(t, net.Check(&untagged{a, b, n}), "leads to net.a.bias (and ")
		require.ErrorContains(t, net.Check(&renamed{a, b, n}), "the weight net.a.bias is net.up.bias (and 1 more like it)")
		require.Error(t, net.Check(nil))
	}
}

// TestSourceTypes: what can be no weight is an error of the source, before anything is built on it.
func TestSourceTypes(t *testing.T) {
	src := layers.NewSource(layers.Options{})
	src.Linear("a", -2, 4, false)
	require.ErrorContains(t, src.Err(), `tensor "a.weight" cannot be f32 with axes [4 -2]`)
	src = layers.NewSource(layers.Options{Policy: layers.Policy{Param: tensor.I32}})
	src.Linear("a", 2, 4, false)
	require.ErrorContains(t, src.Err(), `tensor "a.weight" cannot be i32`)
}

// TestDeclaredTwice: two weights of one name would be one in a file, and each be loaded with what the other is.
func TestDeclaredTwice(t *testing.T) {
	for name, declare := range map[string]func(src layers.Source){
		"net.a.weight": func(src layers.Source) { src.Linear("a", 64, 4, false) },
		"net.a.bias":   func(src layers.Source) { src.Sub("a").Var("bias", layers.Zeros(), 4) },
		"net.n.running_mean": func(src layers.Source) {
			src.Sub("n").Buffer("running_mean", tensor.F32, true, layers.Zeros(), 4)
		},
		"net.e.weight.absmax": func(src layers.Source) { src.Sub("e").Quantized("weight", quant.Config{}, layers.Zeros(), 64, 4) },
	} {
		src := layers.NewSource(layers.Options{})
		net := src.Sub("net")
		net.Linear("a", 64, 4, true)
		layers.NewBatchNorm(net.Sub("n"), 4)
		net.Var("e.weight.absmax", layers.Zeros(), 4)
		require.NoError(t, src.Err())
		declare(net)
		require.ErrorContains(t, src.Err(), `tensor "`+name+`" is declared twice, at check_test.go:`)
		require.Equal(t, 2, strings.Count(src.Err().Error(), "check_test.go:"), src.Err())
		require.Equal(t, src.Err(), src.Load(nil))
	}
}
