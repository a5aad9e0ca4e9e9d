//go:build !amd64 || noasm

package quant

import "math"

var avoidVBMI bool

// There are no vector loops: no block is long enough for a step of them.

func step8() int { return math.MaxInt }

func decode8Step() int { return math.MaxInt }

func maxima[E Real](largest []float32, x []E, n int) {}

func rcp(r, scales *[runBlocks]float32, n int) {}

func encode8[E Real](codes []byte, x []E, r []float32, n int, t *Cells) {}

func encode4[E Real](codes []byte, x []E, r []float32, n int, scheme Scheme) {}

func decode8[E Real](dst []E, codes []byte, absmax []float32, n int, c *decodeTable, stream bool) {}

func rowCodesStep() int { return math.MaxInt }

func limits[E Real](x []E, threshold float32, mask []bool) float32 { return 0 }

func rowCodes[E Real](codes []int8, x []E, r, threshold float32) {}

func productRow[E Real](dst []E, acc []int32, row float32, cols []float32, bias []E) {}

func outlierRow[E Real](dst []E, kept, weight []float32) {}

func decodeInt[E Real](dst []E, codes []uint8, flip, zero int32, scale, post float32) {}

func affineCodes(codes []uint8, x []float32, a affine) bool { return false }

func float8Codes(f Float8, codes []uint8, x []float32, scale float32) {}
