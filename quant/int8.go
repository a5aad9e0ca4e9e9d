package quant

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Constants of the LLM.int8() kernels (Dettmers et al. 2022, arXiv 2208.07339).
const (
	// Int8ProductScale is what the CUDA kernel multiplies an int32 product with, besides its row and column statistic. 1/127² is 6.2000124e-05.
	Int8ProductScale float32 = 6.200012e-05
	// Int8RowScale is 1/127, what a code and its row's statistic are multiplied with.
	Int8RowScale float32 = 7.874015718698502e-3

	// roundMagic added to a float32 below 2^22 in magnitude leaves the value rounded to even in the low bits of the sum.
	roundMagic = 3 << 22
)

// QuantizeRows quantizes a (rows, cols) matrix to int8 with one absmax a row in stats: codes = rint(x·(127/absmax)), ties to even, with
// the GPU's approximate division. Above a threshold of 0, elements with |x| >= threshold are outliers: they count for no statistic and
// get code 0; columns that hold one are returned in ascending order, and with more than one row all codes in them are 0 (their product
// is computed from the original values). A row of zeros has statistic and codes 0, NaN has code 0. codes holds rows·cols elements,
// stats rows.
func QuantizeRows[E Real](codes []int8, stats []float32, src []E, rows, cols int, threshold float32) (outliers []int, err error) {
	if err := checkInt8(len(codes), len(src), rows, cols, threshold); err != nil {
		return nil, err
	}
	if len(stats) < rows {
		return nil, fmt.Errorf("quant: %d rows need as many statistics, got %d", rows, len(stats))
	}
	var mask []bool
	if threshold > 0 {
		mask = make([]bool, cols)
	}
	for r := range rows {
		stats[r] = QuantizeRow(codes[r*cols:(r+1)*cols], src[r*cols:(r+1)*cols], threshold, mask)
	}
	for c, is := range mask {
		if is {
			outliers = append(outliers, c)
		}
	}
	if rows > 1 {
		ClearColumns(codes[:rows*cols], cols, outliers)
	}
	return outliers, nil
}

// QuantizeRow is QuantizeRows of one row. It marks the columns of outliers in mask, which may be nil at threshold 0, and allocates
// nothing. The caller clears outlier columns (ClearColumns) when all rows are done. The lengths of codes and src must agree.
func QuantizeRow[E Real](codes []int8, src []E, threshold float32, mask []bool) (stat float32) {
	var bits uint32
	if threshold > 0 {
		bits = inlierBits(src, threshold, mask)
	} else if bits = largestBits(src); bits > infBits {
		bits = nanFreeBits(src)
	}
	stat = flush(math.Float32frombits(bits))
	r := float32(127 * Rcp(stat))
	if threshold <= 0 {
		threshold = float32(math.Inf(1))
	}
	done := 0
	if step := rowCodesStep(); PlainScale(stat) && len(src) >= step {
		done = len(src) &^ (step - 1)
		rowCodes(codes[:done], src, r, threshold)
	}
	if done < len(src) {
		rowCodesRest(codes[done:], src[done:], stat, threshold)
	}
	return stat
}

// rowCodesRest writes codes in Go, for any statistic.
func rowCodesRest[E Real](codes []int8, src []E, stat, threshold float32) {
	var scratch [1024]float32
	r := float32(127 * Rcp(stat))
	for lo := 0; lo < len(src); lo += len(scratch) {
		x := toFloat32(scratch[:], src[lo:min(lo+len(scratch), len(src))])
		c := codes[lo:][:len(x)]
		if !PlainScale(stat) {
			rowCodesNaive(c, x, stat, threshold)
			continue
		}
		for i, v := range x {
			c[i] = 0
			if abs32(v) < threshold {
				c[i] = int8(math.Float32bits(float32(v*r) + roundMagic))
			}
		}
	}
}

// rowCodesNaive is the definition; it also serves rows with NaN, infinities, zeros or extreme statistics.
func rowCodesNaive(codes []int8, x []float32, stat, threshold float32) {
	r := float32(127 * Rcp(stat))
	for i, v := range x {
		codes[i] = 0
		if threshold <= 0 || abs32(v) < threshold {
			codes[i] = rowCode(v, stat, r)
		}
	}
}

// rowCode is the code of v for r = 127/stat as the kernel computes it. Where that is 0 or infinite, which takes statistics that f16 does
// not have, the quotient itself is rounded.
func rowCode(v, stat, r float32) int8 {
	q := float64(scaled(v, r))
	if stat > 0 && (r == 0 || !finite(r)) {
		q = 127 * float64(flush(v)) / float64(stat)
	}
	if stat == 0 || !finite(stat) || q != q {
		return 0
	}
	return int8(math.RoundToEven(q))
}

// inlierBits are the bits of the largest magnitude below the threshold, NaN excepted; it marks the others in mask.
func inlierBits[E Real](x []E, threshold float32, mask []bool) (bits uint32) {
	if step := step8(); len(x) >= step {
		n := len(x) &^ (step - 1)
		bits = math.Float32bits(limits(x[:n], threshold, mask[:n]))
		x, mask = x[n:], mask[n:]
	}
	var wide [128]float32
	for lo := 0; lo < len(x); lo += len(wide) {
		for i, v := range toFloat32(wide[:], x[lo:min(lo+len(wide), len(x))]) {
			if a := abs32(v); a < threshold {
				bits = max(bits, math.Float32bits(a))
			} else if a >= threshold {
				mask[lo+i] = true
			}
		}
	}
	return bits
}

// nanFreeBits is maxAbsBits that passes over NaN.
func nanFreeBits[E Real](x []E) (bits uint32) {
	for _, v := range x {
		if b := math.Float32bits(abs32(widened(v))); b <= infBits {
			bits = max(bits, b)
		}
	}
	return bits
}

func abs32(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ signBit) }

// ClearColumns writes code 0 into the columns listed of a matrix of cols columns.
func ClearColumns(codes []int8, cols int, columns []int) {
	if len(columns) == 0 {
		return
	}
	for ; len(codes) >= cols; codes = codes[cols:] {
		for _, c := range columns {
			codes[c] = 0
		}
	}
}

// QuantizeColumns quantizes a (rows, cols) matrix to int8 with one absmax a column in stats: rint(x·127/absmax), ties to even. As in the
// library x·127 is rounded to E before the division; only where that product overflows (f16 above 515) is it float32, where the library
// gives garbage. Elements with |x| >= threshold > 0 count for no statistic and get code 0. A column of zeros has statistic and codes 0,
// NaN has code 0. stats holds cols values.
func QuantizeColumns[E Real](codes []int8, stats []float32, src []E, rows, cols int, threshold float32) error {
	if err := checkInt8(len(codes), len(src), rows, cols, threshold); err != nil {
		return err
	}
	if len(stats) < cols {
		return fmt.Errorf("quant: %d columns need as many statistics, got %d", cols, len(stats))
	}
	stats = stats[:cols]
	clear(stats)
	eachRowPart(src, rows, cols, func(x []float32, _, c int) {
		top := stats[c:]
		for i, v := range x {
			if a := abs32(v); a > top[i] && (threshold <= 0 || a < threshold) {
				top[i] = a
			}
		}
	})
	eachRowPart(src, rows, cols, func(x []float32, at, c int) {
		out, top := codes[at:at+len(x)], stats[c:]
		for i, v := range x {
			out[i] = 0
			if stat := top[i]; stat > 0 && v == v && (threshold <= 0 || abs32(v) < threshold) {
				out[i] = columnCode[E](v, stat)
			}
		}
	})
	return nil
}

// eachRowPart shows parts of rows in float32: the elements from flat index at on, which begin in column c.
func eachRowPart[E Real](src []E, rows, cols int, f func(x []float32, at, c int)) {
	var scratch [1024]float32
	for r := range rows {
		for c := 0; c < cols; c += len(scratch) {
			at := r*cols + c
			f(toFloat32(scratch[:], src[at:at+min(len(scratch), cols-c)]), at, c)
		}
	}
}

func columnCode[E Real](v, stat float32) int8 {
	product := rounded[E](v * 127)
	if !finite(product) {
		// Only halves and the last binade of float32 get here; the quotient first loses nothing that matters.
		return int8(math.RoundToEven(127 * float64(v) / float64(stat)))
	}
	// The product rounded up can exceed 127 statistics by half a unit of E, never by half a code.
	return int8(math.RoundToEven(float64(float32(product / stat))))
}

// QuantizeRowsAndColumns is QuantizeRows and QuantizeColumns of one matrix, which weight gradients take (the library's
// int8_double_quant). Outlier columns are cleared in rowCodes alone.
func QuantizeRowsAndColumns[E Real](rowCodes, colCodes []int8, rowStats, colStats []float32, src []E, rows, cols int,
	threshold float32) (outliers []int, err error) {
	if err := QuantizeColumns(colCodes, colStats, src, rows, cols, threshold); err != nil {
		return nil, err
	}
	return QuantizeRows(rowCodes, rowStats, src, rows, cols, threshold)
}

// DequantizeRows writes code·stat·Int8RowScale for each element of a (rows, cols) matrix, products in float32, rounded once to E.
func DequantizeRows[E Real](dst []E, codes []int8, stats []float32, rows, cols int) error {
	if err := checkInt8(len(codes), len(dst), rows, cols, 0); err != nil {
		return err
	}
	if len(stats) < rows {
		return fmt.Errorf("quant: %d rows need as many statistics, got %d", rows, len(stats))
	}
	for r := range rows {
		dequantizeRow8(dst[r*cols:(r+1)*cols], codes[r*cols:], stats[r])
	}
	return nil
}

// ScaleCodes writes code·scale for each code, rounded to float32 and then to E. codes holds at least len(dst).
func ScaleCodes[E Real](dst []E, codes []int8, scale float32) {
	codes = codes[:len(dst)]
	if step := step8(); len(dst) >= step {
		n := len(dst) &^ (step - 1)
		decodeInt(dst[:n], tensor.AsBytes(codes[:n]), 0x80, 0x80, scale, 1)
		dst, codes = dst[n:], codes[n:]
	}
	var values [128]float32
	for lo := 0; lo < len(dst); lo += len(values) {
		v := values[:min(len(values), len(dst)-lo)]
		for i := range v {
			v[i] = float32(codes[lo+i]) * scale
		}
		narrow(dst[lo:], v)
	}
}

func dequantizeRow8[E Real](dst []E, codes []int8, stat float32) {
	if step := step8(); len(dst) >= step {
		n := len(dst) &^ (step - 1)
		decodeInt(dst[:n], tensor.AsBytes(codes[:n]), 0x80, 0x80, stat, Int8RowScale)
		dst, codes = dst[n:], codes[n:]
	}
	if f, ok := any(dst).([]float32); ok {
		for i, c := range codes[:len(f)] {
			f[i] = float32(float32(c)*stat) * Int8RowScale
		}
		return
	}
	var lut [256]E
	for c := range lut {
		lut[c] = fromFloat32[E](float32(float32(int8(c))*stat) * Int8RowScale)
	}
	for i, c := range codes[:len(dst)] {
		dst[i] = lut[uint8(c)]
	}
}

// DequantizeProduct writes the values of an int8 matrix product: acc (rows, cols) of int32 sums, one statistic for each row of the left
// factor and for each row of the right one (a column of the product), bias of cols elements or nil. As the library does, the value
// acc·row·col·Int8ProductScale passes through f16 whatever E is: with a bias of f16 the sum is rounded once, with others it is f16
// before and after the bias is added. Beyond 65504 it is an infinity.
func DequantizeProduct[E Real](dst []E, acc []int32, rowStats, colStats []float32, bias []E, rows, cols int) error {
	if rows < 0 || cols < 0 || cols > 0 && rows > math.MaxInt/cols || len(dst) < rows*cols || len(acc) < rows*cols {
		return fmt.Errorf("quant: a product of %d by %d does not fit %d sums and %d outputs", rows, cols, len(acc), len(dst))
	}
	if len(rowStats) < rows || len(colStats) < cols || bias != nil && len(bias) < cols {
		return fmt.Errorf("quant: a product of %d by %d needs as many statistics and a bias of its width, got %d, %d and %d", rows, cols,
			len(rowStats), len(colStats), len(bias))
	}
	for r := range rows {
		a, d := acc[r*cols:(r+1)*cols], dst[r*cols:(r+1)*cols]
		done := 0
		if step := step8(); cols >= step {
			done = cols &^ (step - 1)
			productRow(d[:done], a, rowStats[r], colStats, bias)
		}
		if done < cols {
			var b []E
			if bias != nil {
				b = bias[done:cols]
			}
			productRowGo(d[done:], a[done:], rowStats[r], colStats[done:], b)
		}
	}
	return nil
}

// productRowGo is one row in Go.
func productRowGo[E Real](dst []E, acc []int32, row float32, cols []float32, bias []E) {
	if b, ok := any(bias).([]tensor.Float16); ok && b != nil { // product and sum are rounded together
		d := any(dst).([]tensor.Float16)
		for i := range d {
			d[i] = tensor.ToF16(fma32(float32(float32(float32(acc[i])*row)*cols[i]), Int8ProductScale, b[i].Float32()))
		}
		return
	}
	var values, wide [128]float32
	for lo := 0; lo < len(dst); lo += len(values) {
		v := values[:min(len(values), len(dst)-lo)]
		for i := range v {
			v[i] = tensor.ToF16(float32(float32(float32(float32(acc[lo+i])*row)*cols[lo+i]) * Int8ProductScale)).Float32()
		}
		if bias != nil {
			for i, b := range toFloat32(wide[:], bias[lo:lo+len(v)]) {
				v[i] = tensor.ToF16(v[i] + b).Float32()
			}
		}
		narrow(dst[lo:], v)
	}
}

// fma32 is x*y+z rounded once to float32: the product is exact in float64, and rounding the sum to odd there makes the second rounding
// right.
func fma32(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	t := s - p
	if e := (p - (s - t)) + (c - t); e != 0 && e == e && math.Float64bits(s)&1 == 0 {
		if (e > 0) == (s > 0) {
			s = math.Float64frombits(math.Float64bits(s) + 1)
		} else {
			s = math.Float64frombits(math.Float64bits(s) - 1)
		}
	}
	return float32(s)
}

func checkInt8(codes, values, rows, cols int, threshold float32) error {
	switch {
	case rows < 0 || cols < 0 || cols > 0 && rows > math.MaxInt/cols:
		return fmt.Errorf("quant: a matrix cannot have %d rows and %d columns", rows, cols)
	case codes < rows*cols || values < rows*cols:
		return fmt.Errorf("quant: a matrix of %d by %d does not fit %d codes and %d values", rows, cols, codes, values)
	case !(threshold >= 0):
		return fmt.Errorf("quant: outlier threshold %v: use 0 (no outliers) or a positive number such as 6", threshold)
	}
	return nil
}
