package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Dequantize returns the whole tensor in another element type (F32, F16, BF16; Invalid = the original's).
func (s *State) Dequantize(d tensor.DType) (*tensor.Tensor, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if d == tensor.Invalid {
		d = s.DType
	}
	if d != tensor.F32 && d != tensor.F16 && d != tensor.BF16 {
		return nil, fmt.Errorf("quant: cannot dequantize to %v: use f32, f16 or bf16", d)
	}
	out := tensor.New(tensor.Type{DType: d, Shape: s.Shape})
	var err error
	switch d {
	case tensor.F32:
		err = DequantizeRange(s, tensor.Data[float32](out), 0, s.Size())
	case tensor.F16:
		err = DequantizeRange(s, tensor.Data[tensor.Float16](out), 0, s.Size())
	case tensor.BF16:
		err = DequantizeRange(s, tensor.Data[tensor.BFloat16](out), 0, s.Size())
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DequantizeRange writes elements lo to hi-1, flat and row-major, to dst[:hi-lo]. It allocates nothing, so callers may split a tensor
// anywhere and fill the parts in parallel. s must be valid.
func DequantizeRange[E Real](s *State, dst []E, lo, hi int) error {
	if lo < 0 || hi < lo || hi > s.Size() || len(dst) < hi-lo {
		return fmt.Errorf("quant: range [%d, %d) does not fit %v and %d elements of output", lo, hi, s.Shape, len(dst))
	}
	if lo == hi {
		return nil
	}
	if s.Blocksize < 1 || len(s.Codes) < s.codesSize() {
		return fmt.Errorf("quant: %d code bytes in blocks of %d do not hold %v: call Validate for the reason", len(s.Codes), s.Blocksize, s.Shape)
	}
	var scales [64]float32
	stream := large(dst[:hi-lo])
	last := s.Block(hi - 1)
	for b := s.Block(lo); b <= last; {
		n := min(len(scales), last+1-b)
		if err := s.Scales(scales[:], b, b+n); err != nil {
			return err
		}
		if s.Scheme.FourBit() {
			end := min((b+n)*s.Blocksize, hi)
			dequantize4(dst[:end-lo], s.Codes[b*s.Blocksize/2:], scales[:n], lo-b*s.Blocksize, s.Blocksize, s.Scheme)
			dst, lo, b = dst[end-lo:], end, b+n
			continue
		}
		if t := s.table8(); t != nil && !s.ByRow {
			end := min((b+n)*s.Blocksize, hi)
			dequantize8(dst[:end-lo], s.Codes[b*s.Blocksize:], scales[:n], lo-b*s.Blocksize, s.Blocksize, t, stream)
			dst, lo, b = dst[end-lo:], end, b+n
			continue
		}
		for _, scale := range scales[:n] {
			_, end := s.Span(b)
			end = min(end, hi)
			decodeBlock(s, dst[:end-lo], b, scale, lo)
			dst, lo, b = dst[end-lo:], end, b+1
		}
	}
	return nil
}

// table8 is the table of an 8-bit scheme whose values are those of codes times a scale and nothing else, nil where there is none ready.
func (s *State) table8() *decodeTable {
	switch {
	case s.Scheme == FP8E4M3:
		return E4M3.table()
	case s.Scheme == FP8E5M2:
		return E5M2.table()
	case s.Scheme == Blockwise8 && s.Map == nil:
		return &DynamicSigned().decodeTable
	}
	return nil
}

// Read implements Source: it writes the elements from lo on, in float32, to dst.
func (s *State) Read(dst []float32, lo int) error { return DequantizeRange(s, dst, lo, lo+len(dst)) }

// decodeBlock writes len(dst) elements of block b, beginning at element lo of the tensor, whose scheme is not one of 4 bits.
func decodeBlock[E Real](s *State, dst []E, b int, scale float32, lo int) {
	if t := s.table8(); t != nil {
		decodeBlock8(dst, s.Codes[lo:lo+len(dst)], scale, t)
		return
	}
	if step := step8(); len(dst) >= step && (s.Scheme == Int8 || s.Scheme == Affine) {
		n := len(dst) &^ (step - 1)
		decodeInts(s, dst[:n], b, scale, lo)
		dst, lo = dst[n:], lo+n
	}
	values, zero, post, bits := s.levels(), s.zero(b), s.post(), s.CodeBits()
	if f, ok := any(dst).([]float32); ok {
		var buffer [256]uint8
		for i := 0; i < len(f); i += len(buffer) {
			out := f[i:min(i+len(buffer), len(f))]
			codes := codesAt(buffer[:], s.Codes, lo+i, len(out), bits)
			for j, c := range codes[:len(out)] {
				out[j] = float32(float32(values[c]-zero)*scale) * post
			}
		}
		return
	}
	decodeHalves(dst, s.Codes, lo, bits, func(c uint8) float32 { return float32(float32(values[c]-zero)*scale) * post })
}

// decodeInts is decodeBlock for integers and a multiple of step8 elements.
func decodeInts[E Real](s *State, dst []E, b int, scale float32, lo int) {
	flip, zero, bits := int32(0), int32(s.zero(b)), s.CodeBits()
	if s.Scheme == Int8 {
		flip, zero = 0x80, 0x80
	}
	var buffer [256]uint8
	for i := 0; i < len(dst); i += len(buffer) {
		out := dst[i:min(i+len(buffer), len(dst))]
		decodeInt(out, codesAt(buffer[:], s.Codes, lo+i, len(out), bits), flip, zero, scale, s.post())
	}
}

// decodeHalves rounds through a table where the block is longer than the table.
func decodeHalves[E Real](dst []E, stream []byte, lo, bits int, value func(c uint8) float32) {
	var lut [256]E
	table := len(dst) >= 1<<bits
	if table {
		for c := range 1 << bits {
			lut[c] = fromFloat32[E](value(uint8(c)))
		}
	}
	var buffer [256]uint8
	for i := 0; i < len(dst); i += len(buffer) {
		out := dst[i:min(i+len(buffer), len(dst))]
		codes := codesAt(buffer[:], stream, lo+i, len(out), bits)[:len(out)]
		if table {
			for j, c := range codes {
				out[j] = lut[c]
			}
			continue
		}
		for j, c := range codes {
			out[j] = fromFloat32[E](value(c))
		}
	}
}

// codesAt returns n codes from element lo on, in the buffer or in place.
func codesAt(buffer []uint8, stream []byte, lo, n, bits int) []uint8 {
	if bits == 8 {
		return stream[lo : lo+n]
	}
	UnpackCodes(buffer[:n], stream, lo, bits)
	return buffer[:n]
}

// Unpack writes the codes of elements lo to hi-1, one a byte, to dst[:hi-lo].
func (s *State) Unpack(dst []uint8, lo, hi int) error {
	if lo < 0 || hi < lo || hi > s.Size() || len(dst) < hi-lo || len(s.Codes) < s.codesSize() {
		return fmt.Errorf("quant: codes [%d, %d) do not fit %v of %d bytes and %d outputs", lo, hi, s.Shape, len(s.Codes), len(dst))
	}
	if !s.Scheme.FourBit() {
		UnpackCodes(dst[:hi-lo], s.Codes, lo, s.CodeBits())
		return nil
	}
	for i := lo; i < hi; i++ {
		dst[i-lo] = s.Codes[i/2] >> (4 - 4*(i%2)) & 15
	}
	return nil
}

// Pack stores the codes of elements from lo on, given one a byte. lo must be a multiple of 8, so that parts may be packed at the same
// time. A code that is too wide is refused.
func (s *State) Pack(codes []uint8, lo int) error {
	n := s.Size()
	if lo < 0 || lo%8 != 0 || len(codes) > n-lo || len(s.Codes) < s.codesSize() || len(codes)%8 != 0 && lo+len(codes) != n {
		return fmt.Errorf("quant: %d codes from element %d on do not fit %v of %d bytes; parts begin and end on multiples of 8", len(codes), lo,
			s.Shape, len(s.Codes))
	}
	if s.Scheme.FourBit() {
		return s.pack4(codes, lo)
	}
	if wide := PackCodes(s.Codes, codes, lo, s.CodeBits()); wide != 0 {
		return fmt.Errorf("quant: code %d does not fit %d bits", wide, s.CodeBits())
	}
	return nil
}

func (s *State) pack4(codes []uint8, lo int) error {
	for i := 0; i < len(codes); i += 2 {
		low := s.Scheme.ZeroCode()
		if i+1 < len(codes) {
			low = codes[i+1]
		}
		if codes[i] > 15 || low > 15 {
			return fmt.Errorf("quant: code %d does not fit 4 bits", max(codes[i], low))
		}
		s.Codes[(lo+i)/2] = codes[i]<<4 | low
	}
	return nil
}
