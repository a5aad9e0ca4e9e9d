package cudnn

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// library opens cuDNN, or skips: it is no part of a driver.
func library(t *testing.T) *Library {
	t.Helper()
	l, err := Open()
	if err != nil {
		t.Skip(err)
	}
	return l
}

// variants are the graphs that device/cuda asks for, small and large.
func variants() []Attention {
	var out []Attention
	for _, base := range []Attention{
		{DType: BF16, B: 2, Tq: 4096, Tk: 4096, Hq: 32, Hkv: 8, D: 128, Scale: 0.1, Causal: true},
		{DType: BF16, B: 20, Tq: 512, Tk: 512, Hq: 32, Hkv: 8, D: 128, Scale: 0.1, Causal: true}, // short documents of long rows
		{DType: F16, B: 1, Tq: 333, Tk: 333, Hq: 12, Hkv: 12, D: 64, Scale: 0.1},
		{DType: BF16, B: 1, Tq: 1000, Tk: 1000, Hq: 8, Hkv: 1, D: 96, Scale: 0.1, Causal: true, Window: 100, SoftCap: 30},
	} {
		base.KeyBatch, base.KeyHead, base.KeyStep = base.Tk*base.Hkv*base.D, base.D, base.Hkv*base.D
		for _, packed := range []bool{false, true} {
			for _, deterministic := range []bool{false, true} {
				for _, back := range []bool{false, true} {
					a := base
					a.Packed, a.Deterministic, a.Backward = packed, deterministic, back
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// TestGraphs: every tensor, operation and operation graph is one that the library accepts. That needs no GPU.
func TestGraphs(t *testing.T) {
	l := library(t)
	t.Logf("cuDNN %s at %s", l.Version(), l.Path())
	h, err := l.NewHandle()
	if err != nil {
		t.Logf("no device: %v", err)
		h = &Handle{lib: l}
	}
	for _, a := range variants() {
		t.Run(fmt.Sprintf("%+v", a), func(t *testing.T) {
			s := a.graph(l)
			require.NoError(t, s.err)
			s.finish(h.h)
			require.NoError(t, s.err)
			s.free()
		})
	}
}
