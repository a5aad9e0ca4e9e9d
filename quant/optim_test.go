package quant

import (
	"strconv"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// moment is one 8-bit optimizer state.
type moment struct {
	book   *Codebook
	signed bool
	codes  []byte
	absmax []float32
}

func newMoment(n int, signed bool) *moment {
	m := &moment{DynamicUnsigned(), signed, make([]byte, n), make([]float32, Blocks(n, StateBlocksize))}
	if signed {
		m.book = DynamicSigned()
	}
	return m
}

// update does state = beta*state + (1-beta)*x in blocks.
func (m *moment) update(beta float32, x []float32) {
	var buf [StateBlocksize]float32
	for b := range m.absmax {
		lo := b * StateBlocksize
		codes := m.codes[lo:min(lo+StateBlocksize, len(m.codes))]
		s := buf[:len(codes)]
		m.book.DequantizeBlock(s, codes, m.absmax[b])
		for i := range s {
			s[i] = float32(s[i]*beta) + float32((1-beta)*x[lo+i])
		}
		if m.signed {
			m.absmax[b] = m.book.QuantizeBlockSigned(codes, s)
		} else {
			m.absmax[b] = m.book.QuantizeBlock(codes, s)
		}
	}
}

func (m *moment) differ(t *testing.T, want []byte) (bad int) {
	require.Len(t, m.codes, len(want))
	for i := range want {
		if want[i] != m.codes[i] {
			bad++
			require.InDelta(t, int(want[i]), int(m.codes[i]), 1, "code %d", i)
		}
	}
	return bad
}

func replayStates(t *testing.T, c bnbCase, data map[string]*tensor.Tensor) (total, off int) {
	all := data[c.Grads].Float32s()
	n := data[c.Grads].Shape().Dim(1)
	m, v := newMoment(n, true), newMoment(n, false)
	lion := strings.HasPrefix(c.Cls, "Lion")
	b1, b2 := float32(c.Group.Betas[0]), float32(c.Group.Betas[1])
	if lion {
		b1 = b2
	}
	sq := make([]float32, n)
	for step := range len(all) / n {
		g := all[step*n:][:n]
		for i := range g {
			sq[i] = g[i] * g[i]
		}
		m.update(b1, g)
		v.update(b2, sq)
		want, ok := c.Steps[strconv.Itoa(step+1)]
		if !ok {
			continue
		}
		require.Equal(t, tensor.U8, data[want.State1].DType())
		total, off = total+n, off+m.differ(t, data[want.State1].Bytes())
		if !lion {
			total, off = total+n, off+v.differ(t, data[want.State2].Bytes())
		}
	}
	return total, off
}
