package checkpoint

import (
	"fmt"
	"slices"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Dequantized serves the whole of a quantized model in full precision: every weight under its own name, in the dtype that it was quantized
// from, and none of the parts that it is stored in. Closing it closes z.
func (z *Quantized) Dequantized() (Reader, error) {
	if err := z.Complete(); err != nil {
		return nil, err
	}
	d := &dequantized{from: z, types: map[string]tensor.Type{}}
	part := map[string]bool{}
	for name := range z.parts {
		if _, own := z.own[name]; own {
			continue // served dequantized already
		}
		h, err := z.describe(name)
		if err != nil {
			return nil, err
		}
		d.types[name] = h.Type
		for _, p := range z.parts[name] {
			part[p] = p != name
		}
	}
	d.names = slices.DeleteFunc(z.Names(), func(n string) bool { return part[n] })
	return d, nil
}

type dequantized struct {
	from  *Quantized
	types map[string]tensor.Type
	names []string
}

func (d *dequantized) Names() []string { return slices.Clone(d.names) }

func (d *dequantized) Type(name string) (tensor.Type, bool) {
	if t, ok := d.types[name]; ok {
		return t, true
	}
	return d.from.Type(name)
}

func (d *dequantized) Read(name string) (*tensor.Tensor, error) {
	t, ok := d.types[name]
	if !ok {
		return d.from.Read(name)
	}
	s, err := d.from.State(name)
	if err != nil {
		return nil, err
	}
	return s.Dequantize(t.DType)
}

func (d *dequantized) ReadInto(name string, offset int64, p []byte) error {
	if _, ok := d.types[name]; !ok {
		return d.from.ReadInto(name, offset, p)
	}
	return d.from.decode(name, d.types[name], offset, p)
}

func (d *dequantized) Close() error { return d.from.Close() }

// lastState is the quantized weight that a piece was read of: the next piece is of the same one, mostly.
type lastState struct {
	mu   sync.Mutex
	name string
	s    *quant.State
}

// decode fills p with bytes of a quantized weight of the type t, from an offset on. The weight stays in memory, quantized, until another one is read in
// pieces.
func (z *Quantized) decode(name string, t tensor.Type, offset int64, p []byte) error {
	if n := t.Bytes(); offset < 0 || offset > n || int64(len(p)) > n-offset {
		return fmt.Errorf("%s: tensor %s: %d bytes at %d are outside its %d bytes", z.path, quoted(name), len(p), offset, n)
	}
	s, err := z.last.of(z, name)
	if err != nil {
		return err
	}
	const some = 1 << 16 // elements
	size := int64(t.DType.Size())
	part := tensor.New(tensor.T(t.DType, some))
	for len(p) > 0 {
		lo, in := int(offset/size), int(offset%size)
		n := min((in+len(p)+int(size)-1)/int(size), some)
		switch t.DType {
		case tensor.F16:
			err = quant.DequantizeRange(s, tensor.Data[tensor.Float16](part), lo, lo+n)
		case tensor.BF16:
			err = quant.DequantizeRange(s, tensor.Data[tensor.BFloat16](part), lo, lo+n)
		default:
			err = quant.DequantizeRange(s, tensor.Data[float32](part), lo, lo+n)
		}
		if err != nil {
			return z.bad(name, err)
		}
		done := copy(p, part.Bytes()[in:n*int(size)])
		p, offset = p[done:], offset+int64(done)
	}
	return nil
}

// of returns a valid state.
func (l *lastState) of(z *Quantized, name string) (*quant.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s != nil && l.name == name {
		return l.s, nil
	}
	l.name, l.s = "", nil // before the next one takes memory
	s, err := z.State(name)
	if err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, z.bad(name, err)
	}
	l.name, l.s = name, s
	return s, nil
}
