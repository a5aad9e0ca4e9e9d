package quant_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// NF4 with doubly quantized scales takes little more than half a byte a weight.
func ExampleQuantize() {
	const n = 256 * 256
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i%97-48) / 48
	}
	w, err := tensor.Of(values, 256, 256)
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := quant.Quantize(w, quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	back, err := s.Dequantize(tensor.F32)
	if err != nil {
		fmt.Println(err)
		return
	}
	var worst float64
	for i := range n {
		worst = max(worst, back.At(i)-w.At(i), w.At(i)-back.At(i))
	}
	fmt.Printf("%.3f bytes a weight, largest error %.2f of the largest weight\n", float64(s.Bytes())/n, worst)
	// Output: 0.516 bytes a weight, largest error 0.15 of the largest weight
}

// The sixteen values of NF4 are the quantiles of a normal distribution, scaled to [-1, 1].
func ExampleScheme_Values() {
	v := quant.NF4.Values()
	fmt.Printf("%.4f %.4f %.4f\n", v[0], v[7], v[15])
	// Output: -1.0000 0.0000 1.0000
}

// Formats are found by name; what one made can be converted to another.
func ExampleParseFormat() {
	w, err := tensor.Of([]float32{-1, -0.4, 0, 0.3, 0.6, 1, 2, 3}, 2, 4)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"int4:channel", "int3:group=2,asym", "fp8_e4m3", "cb3:block=4"} {
		f, err := quant.ParseFormat(name)
		if err != nil {
			fmt.Println(err)
			return
		}
		s, err := quant.QuantizeTensor(w, f, quant.Options{})
		if err != nil {
			fmt.Println(err)
			return
		}
		row := make([]float32, 4)
		if err := s.Read(row, 0); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%-18s %5.2f bits %6.3f\n", f.Name(), f.BitsPerWeight(tensor.S(4096, 4096)), row)
	}
	// Output:
	// int4:channel        4.01 bits [-1.000 -0.429  0.000  0.286]
	// int3:group=2,asym  23.00 bits [-1.000 -0.429  0.000  0.300]
	// fp8_e4m3:channel    8.01 bits [-1.000 -0.393  0.000  0.286]
	// cb3:block=4        11.00 bits [-1.000 -0.535  0.000  0.382]
}
