package graph

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Var is a symbol of persistent storage: a weight, an optimizer state, a cache. It has no value of its own; a plan's store
// holds that. Several graphs may share a Var.
type Var struct {
	Name      string
	Type      tensor.Type
	Trainable bool

	// Slab, when set, makes this Var a view of another: its bytes are Slab's from Offset (in elements of Type.DType) on.
	Slab   *Var
	Offset int64

	// Supplied says that the value comes from outside, as a weight's does: a plan that reads it refuses to run before it was set or written.
	// Other variables begin as zeros, as gradients and the states of optimizers do.
	Supplied bool

	// Place says in which memory the value lives; of a view, the slab's counts.
	Place Place
}

// Place is a kind of memory. On devices that compute in host memory there is no difference.
type Place uint8

// The places: the memory of the device, and host memory that the device reads and writes over its bus, for state that is touched once
// a step and does not fit (what bitsandbytes calls paged).
const (
	OnDevice Place = iota
	InHost
)

// NewVar makes a variable symbol.
func NewVar(name string, t tensor.Type) *Var { return &Var{Name: name, Type: t} }

// Root returns the Var that owns the storage and v's byte offset inside it.
func (v *Var) Root() (root *Var, offset int64) {
	root = v
	for root.Slab != nil {
		offset += root.Offset * int64(root.Type.DType.Size())
		root = root.Slab
	}
	return root, offset
}

// String prints "name f32[2,3]".
func (v *Var) String() string { return fmt.Sprintf("%s %v", v.Name, v.Type) }

// Write is an effect of a step: Var holds Value when the step ends. Reads in the same step see the old value.
type Write struct {
	Var   *Var
	Value Value
}
