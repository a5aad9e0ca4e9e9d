package graph

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Part is some neighbouring elements of a tensor as a tensor of a shape of their own: always a view. Plans use it where one operation on a
// slab stands for many on what lies in it.
type Part struct {
	Offset int64 // of the first element
	Shape  tensor.Shape
}

// Name implements Op.
func (Part) Name() string { return "part" }

// Infer implements Op.
func (o Part) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 1 {
		return nil, fmt.Errorf("takes 1 input, got %d", len(in))
	}
	if n := int64(in[0].Size()); o.Offset < 0 || o.Offset > n || int64(o.Shape.Size()) > n-o.Offset {
		return nil, fmt.Errorf("%d elements from %d on are not all in %v", o.Shape.Size(), o.Offset, in[0])
	}
	return []tensor.Type{{DType: in[0].DType, Shape: o.Shape}}, nil
}

// View implements Viewer.
func (o Part) View(in []tensor.Type) (int64, bool) { return o.Offset * int64(in[0].DType.Size()), true }
