// Package quant defines the numeric formats of bitsandbytes: the NF4 and FP4 code tables, the 8-bit code books, blockwise
// quantization in 4 and 8 bits, double quantization of the scales, int8 rows and columns, and the tensors under which checkpoints store
// them; and beside them general ones: integers of 2 to 8 bits with and without zero point, 8-bit floats, code books of 2 to 6 bits.
//
// A Format quantizes tensors; ParseFormat finds one by name. The result of each is a State, whose Validate holds the invariants of all.
//
// Files written by the CUDA library must load here and files written here must load there, so the results are those of its kernels
// byte for byte: the decision thresholds are its constants, the scale is inverted by the same approximate reciprocal (Rcp), denormal
// numbers count as zero, and ties fall where its searches let them fall. Everything that a backend needs to reproduce the formats in
// its own kernels is exported; the functions here are the reference and the CPU path at once.
//
// A tensor is cut in flat row-major order into blocks of blocksize elements, the last of which may be short. Each block has one
// float32 scale, absmax, the largest magnitude in it; an element is stored as the index of the table value next to x/absmax.
// Functions that take slices work on whole blocks from their start, so callers split large tensors on block borders and run the
// parts in parallel.
//
// Long loops are assembly where the processor has AVX2 or AVX-512 (internal/isa); the bits are those of the loops in Go.
package quant

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Scheme says what codes mean. The zero value is NF4.
type Scheme uint8

// The schemes. A scale belongs to a block of elements; see State for how blocks are cut.
const (
	// NF4 holds 16 quantiles of the normal distribution, scaled to [-1, 1] (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, appendix E).
	NF4 Scheme = iota
	// FP4 is bitsandbytes' 4-bit float: a sign and {0, 1/192, 1/6, 1/4, 1/3, 1/2, 2/3, 1}. It is not the E2M1 layout of MXFP4.
	FP4
	// Int8 is a matrix of int8 with one absmax a row (LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339).
	Int8
	// Blockwise8 is an index into a map of 256 values, times absmax (Dettmers et al. 2022, arXiv 2110.02861).
	Blockwise8
	// Affine is an integer of 2 to 8 bits, less a zero point, times a step.
	Affine
	// FP8E4M3 and FP8E5M2 are 8-bit floats (Float8) times a scale.
	FP8E4M3
	FP8E5M2
	// KBit is an index into a table of 2 to 6 bits, times absmax.
	KBit

	numSchemes
)

var schemeNames = [numSchemes]string{
	NF4: "nf4", FP4: "fp4", Int8: "int8", Blockwise8: "blockwise8", Affine: "affine", FP8E4M3: "fp8_e4m3", FP8E5M2: "fp8_e5m2", KBit: "kbit",
}

// Block sizes that the 4-bit formats accept. They must also be even, so that a block starts on a byte.
const (
	MinBlocksize     = 32
	MaxBlocksize     = 4096
	DefaultBlocksize = 64
)

// Real is an element type that the formats quantize from and dequantize to.
type Real interface {
	float32 | tensor.Float16 | tensor.BFloat16
}

// String returns the name of the scheme: for bitsandbytes' weights "nf4", "fp4" or "int8", as checkpoints and configurations have it.
func (s Scheme) String() string {
	if s < numSchemes {
		return schemeNames[s]
	}
	return fmt.Sprintf("Scheme(%d)", uint8(s))
}

// ParseScheme finds the scheme of bitsandbytes' weights by its name, nf4, fp4 or int8; ok is false for another name. ParseFormat knows
// the names of all formats.
func ParseScheme(name string) (s Scheme, ok bool) {
	for s := range Blockwise8 {
		if schemeNames[s] == name {
			return s, true
		}
	}
	return 0, false
}

// Valid reports whether s is a known scheme.
func (s Scheme) Valid() bool { return s < numSchemes }

// FourBit reports whether s stores 4-bit codes, two to a byte, with one scale a block: NF4 or FP4.
func (s Scheme) FourBit() bool { return s <= FP4 }

// Values returns the value of each 4-bit code. FP4's code 8 is -0. Another scheme gives zeros.
func (s Scheme) Values() [16]float32 {
	switch s {
	case NF4:
		return floats16(nf4Bits)
	case FP4:
		return fp4Values()
	}
	return [16]float32{}
}

// storedTable is the table as checkpoints hold it: there the library writes FP4's negative zero as +0.
func (s Scheme) storedTable() [16]float32 {
	v := s.Values()
	for i := range v {
		v[i] += 0
	}
	return v
}

// Thresholds returns the ascending decision thresholds of the quantizer. For NF4 the code of q is the number of thresholds t with
// q > t. For FP4 there are seven; they apply to |q|, their count k selects the magnitude code FP4Order()[k], and bit 3 is set when
// q < 0. The constants are those of the CUDA kernels; several differ from the midpoints of the table in the last bits.
func (s Scheme) Thresholds() []float32 {
	switch s {
	case NF4:
		t := make([]float32, len(nf4ThresholdBits))
		for i, b := range nf4ThresholdBits {
			t[i] = math.Float32frombits(b)
		}
		return t
	case FP4:
		return []float32{0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333}
	}
	return nil
}

// FP4Order returns the FP4 magnitude codes from the smallest value to the largest.
func FP4Order() [8]uint8 { return [8]uint8{0, 1, 6, 7, 4, 5, 2, 3} }

// ZeroCode is the code of 0, which also fills the spare nibble of a tensor with an odd number of elements.
func (s Scheme) ZeroCode() uint8 {
	if s == NF4 {
		return 7
	}
	return 0
}

// Blocks is the number of blocks that n elements fill: n/blocksize rounded up.
func Blocks(n, blocksize int) int {
	if n <= 0 || blocksize <= 0 {
		return 0
	}
	return (n-1)/blocksize + 1
}

// PackedSize is the number of bytes that n 4-bit codes fill.
func PackedSize(n int) int { return n/2 + n&1 }

var nf4Bits = [16]uint32{
	0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
	0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
}

var nf4ThresholdBits = [15]uint32{
	0xbf591cd9, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec, 0xbe0d38bc, 0xbd3a7871, 0x3d22faff,
	0x3df64863, 0x3e5067e0, 0x3e9582d4, 0x3ec753f9, 0x3f006d03, 0x3f248daf, 0x3f5c89d9,
}

func floats16(bits [16]uint32) (v [16]float32) {
	for i, b := range bits {
		v[i] = math.Float32frombits(b)
	}
	return v
}

func fp4Values() (v [16]float32) {
	for i, raw := range [8]float32{0, 0.0625, 8, 12, 4, 6, 2, 3} {
		v[i] = raw / 12
		v[i+8] = -v[i]
	}
	return v
}

// checkBlocksize refuses block sizes that the 4-bit formats do not have.
func checkBlocksize(blocksize int) error {
	if blocksize < MinBlocksize || blocksize > MaxBlocksize || blocksize%2 != 0 {
		return fmt.Errorf("quant: blocksize %d: must be even and from %d to %d (usual: %d)",
			blocksize, MinBlocksize, MaxBlocksize, DefaultBlocksize)
	}
	return nil
}
