package cuda

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// plainTable is what kernels/quantize.cu encodes plain blocks by: the words of its table and what it defines. The zero value has none.
type plainTable struct {
	words  []uint32
	define []string
}

// add gives a program the table.
func (t plainTable) add(p *Program) {
	p.Define = append(append(p.Define, fmt.Sprintf("PLAIN %d", len(t.words))), t.define...)
	p.Text += "INLINE const u32 *plain_table() { return nullptr; }\n"
	if len(t.words) > 0 {
		p.Text = p.Text[:len(p.Text)-len("nullptr; }\n")] + "plain_words; }\n"
		p.Text = fmt.Sprintf("CONSTANT u32 plain_words[%d] = {%s};\n", len(t.words), hexWords(t.words)) + p.Text
	}
}

// cellZero is the cell of scaled values from 0 to 1/16 in the table of NF4: before it there is room for a little less than -1.
const cellZero = 24

// plain4 has two words for each of the cells that scaled values, at most 1 and a little in magnitude, reach. FP4, whose thresholds lie closer to each other than cells
// are wide and whose codes do not ascend, has no such table.
func plain4(s quant.Scheme) (plainTable, error) {
	if s != quant.NF4 {
		return plainTable{}, nil
	}
	t := plainTable{define: []string{fmt.Sprintf("CELL_ZERO %d", cellZero), "PLAIN_MOST 3.402823466e38f"}}
	for k := range cellZero + 17 {
		// A cell has the values whose 2048-fold, rounded, begins here; its bounds are exact in float64.
		lo := (float64(128*(k-cellZero)) - 0.5) / 2048
		below, border := uint32(0), float32(math.Inf(1))
		for _, b := range s.Thresholds() {
			switch v := float64(b); {
			case v < lo:
				below++
			case v > lo+1./16 || v == lo:
			case !math.IsInf(float64(border), 1):
				return plainTable{}, fmt.Errorf("cuda: two thresholds of %v in a cell", s)
			default:
				border = b
			}
			if math.Abs(float64(b)-lo) < 1e-6 {
				return plainTable{}, fmt.Errorf("cuda: a threshold of %v where cells meet", s)
			}
		}
		t.words = append(t.words, math.Float32bits(border), below)
	}
	return t, nil
}

// plain8 is a table of kernels/cells.cuh, with the scale of numbers and the largest absmax that it holds for. Cells of negative values are left out unless signed.
func plain8(c cellTable, signed bool) (words []uint32, scale, most string, err error) {
	shift := c.first>>7 - 1
	half := uint32(len(c.words) / 2)
	for cell := uint32(0); cell <= oneCell-shift<<7; cell++ {
		from := uint32(max(int(cell+shift<<7)-int(c.first), 0))
		if cell < 1<<7 {
			from = 0 // of zero
		}
		for sign := range uint32(1 + b2i(signed)) {
			w := c.words[from+sign*half]
			near, far, last := w&0xff, w>>8&0xff, w>>16
			if sign == 1 {
				near, far = 255-near, 255-far
			}
			low := 0xffff - last
			if near == far {
				low = 0
			} else if far != near+1 {
				return nil, "", "", fmt.Errorf("cuda: codes %d and %d share a cell of the code book", near, far)
			}
			words = append(words, (near-cell)&0xff<<16|low)
		}
	}
	if oneCell-shift<<7 >= 1<<12 {
		return nil, "", "", fmt.Errorf("cuda: the code book has %d cells, %d fit", oneCell-shift<<7, 1<<12)
	}
	float := func(exponent uint32) string { return fmt.Sprintf("__uint_as_float(0x%xu)", exponent<<23) }
	return words, float(127 - shift), float(127 + 125 - shift), nil
}
