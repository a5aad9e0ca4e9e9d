package checkpoint

import (
	"fmt"
	"slices"

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
	t, err := d.Read(name)
	if err != nil {
		return err
	}
	if b := t.Bytes(); offset < 0 || offset > int64(len(b)) || int64(len(p)) > int64(len(b))-offset {
		return fmt.Errorf("%s: tensor %s: %d bytes at %d are outside its %d bytes", d.from.path, quoted(name), len(p), offset, len(b))
	}
	copy(p, t.Bytes()[offset:])
	return nil
}

func (d *dequantized) Close() error { return d.from.Close() }
