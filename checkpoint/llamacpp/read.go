package llamacpp

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Read loads one tensor, decoded and in Hugging Face's order.
func (m *Model) Read(name string) (*tensor.Tensor, error) {
	p, ok := m.parts[name]
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q among its %d", m.f.Path(), name, len(m.names))
	}
	if p.change == transposed { // at once: by columns it would be read in many small pieces
		t, err := m.f.Read(p.info.Name)
		if err != nil {
			return nil, err
		}
		return transpose(t), nil
	}
	t := tensor.New(p.typ)
	return t, m.read(p, 0, t.Bytes())
}

// ReadInto fills b with the bytes of a tensor from the given byte offset inside it. It reads what these bytes are made of and no more, but for blocks that
// they begin or end inside of.
func (m *Model) ReadInto(name string, offset int64, b []byte) error {
	p, ok := m.parts[name]
	if !ok {
		return fmt.Errorf("%s: no tensor %q among its %d", m.f.Path(), name, len(m.names))
	}
	if size := p.typ.Bytes(); offset < 0 || offset > size || int64(len(b)) > size-offset {
		return fmt.Errorf("%s: tensor %q: %d bytes at %d are outside its %d bytes", m.f.Path(), name, len(b), offset, size)
	}
	return m.read(p, offset, b)
}

func (m *Model) read(p part, offset int64, b []byte) error {
	switch p.change {
	case stacked:
		return m.f.ReadInto(p.info.Name, int64(p.expert)*p.typ.Bytes()+offset, b)
	case paired:
		return m.readPaired(p, offset, b)
	case transposed:
		return m.readTransposed(p, offset, b)
	case plusOne:
		return m.readLessOne(p, offset, b)
	}
	return m.f.ReadInto(p.info.Name, offset, b)
}

// readPaired reads row by row: half of a head is every other row of the file.
func (m *Model) readPaired(p part, offset int64, b []byte) error {
	row := p.typ.Bytes() / int64(max(p.typ.Dim(0), 1))
	for len(b) > 0 {
		r, in := offset/row, offset%row
		n := min(row-in, int64(len(b)))
		from := int64(inHalves(int(r), p.head))
		if err := m.f.ReadInto(p.info.Name, from*row+in, b[:n]); err != nil {
			return err
		}
		b, offset = b[n:], offset+n
	}
	return nil
}

// someElements is how many elements are held beside those that are asked for.
const someElements = 1 << 18

// readTransposed reads some rows of what is asked for at a time: for each, a short piece of every row of the file.
func (m *Model) readTransposed(p part, offset int64, b []byte) error {
	rows, cols, size := p.typ.Dim(0), p.typ.Dim(1), p.typ.DType.Size()
	row := int64(cols * size)
	for len(b) > 0 {
		first := int(offset / row)
		in := offset - int64(first)*row
		n := min(max(someElements/cols, 1), rows-first, int((in+int64(len(b))+row-1)/row))
		from, to := 0, cols // columns of these rows that are asked for
		if n == 1 {
			from, to = int(in)/size, min((int(in)+len(b)+size-1)/size, cols)
		}
		band := make([]byte, n*cols*size)
		piece := make([]byte, n*size)
		for c := from; c < to; c++ {
			if err := m.f.ReadInto(p.info.Name, int64(c*rows+first)*int64(size), piece); err != nil {
				return err
			}
			for r := range n {
				copy(band[(r*cols+c)*size:(r*cols+c+1)*size], piece[r*size:])
			}
		}
		done := copy(b, band[in:])
		b, offset = b[done:], offset+int64(done)
	}
	return nil
}

// readLessOne reads weights that are stored as 1 + w.
func (m *Model) readLessOne(p part, offset int64, b []byte) error {
	stored := p.info.Decoded().DType
	const float = 4
	for len(b) > 0 {
		first, in := offset/float, offset%float
		n := min((int(in)+len(b)+float-1)/float, someElements)
		t := tensor.New(tensor.T(stored, n))
		if err := m.f.ReadInto(p.info.Name, first*int64(stored.Size()), t.Bytes()); err != nil {
			return err
		}
		t, err := t.Convert(tensor.F32)
		if err != nil {
			return err
		}
		for i, v := range tensor.Data[float32](t) {
			tensor.Data[float32](t)[i] = v - 1
		}
		done := copy(b, t.Bytes()[in:])
		b, offset = b[done:], offset+int64(done)
	}
	return nil
}
