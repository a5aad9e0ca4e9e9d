package optim

import (
	"hash/fnv"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// Rounding is how updated parameters of bfloat16 and float16 are rounded; float32 needs none. In these types a step or a decay below
// about 1/512 (bfloat16) of a parameter is less than half a unit in the last place, so that the nearest value is the old one and nothing is
// ever learned or decayed.
type Rounding = ops.Rounding

// The ways to round: to the nearest value, as bitsandbytes does; up or down by chance, so that on average nothing is lost; or to the
// nearest with the rest kept in a further state of the parameters' type.
const (
	Nearest    = ops.Nearest
	Stochastic = ops.Stochastic
	Kahan      = ops.Kahan
)

// siteOf names a parameter to the random generator of stochastic rounding, by its name: so that the order of parameters, the slab and
// the division into groups change nothing.
func siteOf(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum32()
}
