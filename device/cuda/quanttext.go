package cuda

import (
	"fmt"
	"math"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// The tables of package quant as CUDA C++, generated so that each stands in one place.

// hexWords writes words as the elements of an initialiser.
func hexWords(words []uint32) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(',')
		}
		if i%16 == 15 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "0x%x", w)
	}
	return b.String()
}

func floatWords(values []float32) []uint32 {
	words := make([]uint32, len(values))
	for i, v := range values {
		words[i] = math.Float32bits(v)
	}
	return words
}

// levelsText declares the values of 4-bit codes: float level(int code), by bits.
func levelsText(s quant.Scheme) string {
	values := s.Values()
	return "CONSTANT u32 level_bits[16] = {" + hexWords(floatWords(values[:])) + "};\n" +
		"INLINE float level(int code) { return __uint_as_float(level_bits[code]); }\n"
}

// bookText declares the values of the codes of a dynamic map: float book_value(int code).
func bookText(unsigned bool) string {
	book := quant.DynamicSigned()
	if unsigned {
		book = quant.DynamicUnsigned()
	}
	return "CONSTANT u32 book_bits[256] = {" + hexWords(floatWords(book.Table()[:])) + "};\n" +
		"INLINE float book_value(int code) { return __uint_as_float(book_bits[code]); }\n"
}

// encode4Text defines encode for a 4-bit scheme: a binary search whose thresholds are selected, not branched to.
func encode4Text(s quant.Scheme) string {
	t := s.Thresholds()
	var b strings.Builder
	fmt.Fprintf(&b, "INLINE const u32 *code_cells() { return nullptr; }\nINLINE float threshold(int i) {\n  const u32 bits[%d] = {%s};\n"+
		"  return __uint_as_float(bits[i]);\n}\n", len(t), hexWords(floatWords(t)))
	if s == quant.NF4 {
		b.WriteString(`INLINE u32 encode(float q, float, const u32 *) {
  bool a = q > threshold(7);
  bool b = q > (a ? threshold(11) : threshold(3));
  bool c = q > (a ? (b ? threshold(13) : threshold(9)) : (b ? threshold(5) : threshold(1)));
  float low = b ? (c ? threshold(6) : threshold(4)) : (c ? threshold(2) : threshold(0));
  float high = b ? (c ? threshold(14) : threshold(12)) : (c ? threshold(10) : threshold(8));
  return (u32)a << 3 | (u32)b << 2 | (u32)c << 1 | (u32)(q > (a ? high : low));
}
`)
		return b.String()
	}
	order := uint32(0)
	for k, code := range quant.FP4Order() {
		order |= uint32(code) << (4 * k)
	}
	fmt.Fprintf(&b, `INLINE u32 encode(float q, float, const u32 *) {
  float x = fabsf(q);
  bool a = x > threshold(3);
  bool b = x > (a ? threshold(5) : threshold(1));
  bool c = x > (a ? (b ? threshold(6) : threshold(4)) : (b ? threshold(2) : threshold(0)));
  u32 rank = (u32)a << 2 | (u32)b << 1 | (u32)c;
  return (0x%xu >> (4 * rank) & 7) | (u32)(q < 0) << 3;
}
`, order)
	return b.String()
}

// cellTable is the part of quant.Cells that scaled values, at most 1 and a little in magnitude, reach: cells from `first` to that of 1,
// those of positive values and then those of negative ones. Smaller magnitudes have the code of cell `first`.
type cellTable struct {
	first uint32
	words []uint32
}

const oneCell = 0x3f80 // the upper 16 bits of 1

func newCellTable(c *quant.Cells) (cellTable, error) {
	first := uint32(0)
	same := func(i, j uint32) bool { return c[i]&0xffff == c[j]&0xffff }
	whole := func(i uint32) bool { return c[i]&0xff == c[i]>>8&0xff }
	const sign = 1 << 15
	for first < oneCell && whole(first+1) && whole(sign|(first+1)) && same(first, first+1) && same(sign|first, sign|(first+1)) {
		first++
	}
	if !whole(first) || !whole(sign|first) || !whole(oneCell) || !whole(sign|oneCell) {
		return cellTable{}, fmt.Errorf("cuda: the code book has a border next to 0 or above 1")
	}
	t := cellTable{first: first}
	t.words = append(t.words, c[first:oneCell+1]...)
	t.words = append(t.words, c[sign|first:(sign|oneCell)+1]...)
	return t, nil
}

// cellsOf is the table of a dynamic map, whose codes of moments keep the sign.
func cellsOf(unsigned, moment bool) (cellTable, error) {
	book := quant.DynamicSigned()
	if unsigned {
		book = quant.DynamicUnsigned()
	}
	source := book.Cells()
	if moment {
		source = book.MomentCells()
	}
	if source == nil {
		return cellTable{}, fmt.Errorf("cuda: the code book has no table of cells")
	}
	return newCellTable(source)
}

// encode8Text defines encode for a dynamic map, and the words of its table.
func encode8Text(t cellTable, moment bool) string {
	half := len(t.words) / 2
	none := "0"
	if moment {
		none = "__float_as_uint(x) >> 31 ? 0u : x > 0 ? 1u : 255u" // the sign of code 0 is negative
	}
	return fmt.Sprintf(`CONSTANT u32 cell_words[%d] = {%s};
INLINE const u32 *code_cells() { return cell_words; }
INLINE u32 encode(float q, float x, const u32 *table) {
  u32 b = __float_as_uint(q);
  i32 at = (i32)(b >> 16 & 0x7fff) - %d;
  at = at < 0 ? 0 : at < %d ? at : %d;
  u32 cell = table[at + (b >> 31) * %d];
  u32 code = (b & 0xffff) > cell >> 16 ? cell >> 8 & 255 : cell & 255;
  return q != q ? %s : code;
}
`, len(t.words), hexWords(t.words), t.first, half, half-1, half, none)
}
