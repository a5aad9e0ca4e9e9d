package main

import (
	"bytes"
	"testing"
)

// TestEncodeDotBF16 compares with the bytes that LLVM's and GNU's assemblers give.
func TestEncodeDotBF16(t *testing.T) {
	for _, c := range []struct {
		a, b, dst int
		want      []byte
	}{
		{24, 23, 22, []byte{0x62, 0x82, 0x46, 0x40, 0x52, 0xf0}},
		{4, 5, 6, []byte{0x62, 0xf2, 0x56, 0x48, 0x52, 0xf4}},
		{28, 29, 30, []byte{0x62, 0x02, 0x16, 0x40, 0x52, 0xf4}},
	} {
		if got := encodeDotBF16(c.a, c.b, c.dst); !bytes.Equal(got, c.want) {
			t.Errorf("vdpbf16ps zmm%d, zmm%d, zmm%d is % x, want % x", c.a, c.b, c.dst, got, c.want)
		}
	}
}
