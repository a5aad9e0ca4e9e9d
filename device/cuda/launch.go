package cuda

import (
	"fmt"
	"math"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// Launch enqueues a kernel. args are Addr, int32, uint32, int64, uint64, float32, float64 or a pointer to a struct without Go pointers,
// in the order of the kernel's parameters.
func (c *Call) Launch(f *Function, g Geometry, args ...any) error {
	s := c.Stream
	if s.err != nil {
		return s.err
	}
	if err := f.ready(s); err != nil {
		return err
	}
	grid, block, err := f.shape(g)
	if err != nil {
		return err
	}
	if err := f.fill(s.block, args); err != nil {
		return err
	}
	if err := f.allow(c.Dev, g.Shared); err != nil {
		return err
	}
	err = c.Dev.api.Launch(f.handle, grid, block, g.Shared, s.handle, s.block)
	runtime.KeepAlive(args)
	if err == nil && c.Dev.sync && s.record == nil {
		err = c.Dev.api.Sync(s.handle)
	}
	if err != nil {
		return fmt.Errorf("%s, grid %v, block %v, %d bytes of shared memory: %w", f.name, grid, block, g.Shared, err)
	}
	return nil
}

// shape checks a geometry against CUDA's limits.
func (f *Function) shape(g Geometry) (grid, block [3]uint32, err error) {
	threads := 1
	for i := range 3 {
		n, b := max(g.Grid[i], 1), max(g.Block[i], 1)
		most := math.MaxInt32
		if i > 0 {
			most = 65535
		}
		if g.Grid[i] < 0 || g.Block[i] < 0 || n > most || b > 1024 || i == 2 && b > 64 {
			return grid, block, fmt.Errorf("%s: a grid of %v blocks of %v threads is beyond CUDA's limits", f.name, g.Grid, g.Block)
		}
		grid[i], block[i] = uint32(n), uint32(b)
		threads *= b
	}
	if threads > f.uses.Threads {
		return grid, block, fmt.Errorf("%s: %d threads a block; with its registers it can have %d", f.name, threads, f.uses.Threads)
	}
	return grid, block, nil
}

// fill writes the arguments to the block of a launch.
func (f *Function) fill(b *driver.LaunchBlock, args []any) error {
	if len(args) > driver.MaxParams {
		return fmt.Errorf("%s: %d arguments; a kernel has %d at most", f.name, len(args), driver.MaxParams)
	}
	if f.params != nil && len(args) != len(f.params) {
		return fmt.Errorf("%s: %d arguments for %d parameters", f.name, len(args), len(f.params))
	}
	for i, a := range args {
		bytes := 8
		b.Params[i] = unsafe.Pointer(&b.Values[i])
		switch v := a.(type) {
		case Addr:
			b.Values[i] = uint64(v)
		case int64:
			b.Values[i] = uint64(v)
		case uint64:
			b.Values[i] = v
		case float64:
			b.Values[i] = math.Float64bits(v)
		case int32:
			b.Values[i], bytes = uint64(uint32(v)), 4
		case uint32:
			b.Values[i], bytes = uint64(v), 4
		case float32:
			b.Values[i], bytes = uint64(math.Float32bits(v)), 4
		default:
			r := reflect.ValueOf(a)
			if r.Kind() != reflect.Pointer || r.IsNil() || r.Elem().Kind() != reflect.Struct {
				return fmt.Errorf("%s: argument %d is a %T; it can be Addr, int32, uint32, int64, uint64, float32, float64 or a pointer to a struct", f.name, i, a)
			}
			b.Params[i], bytes = r.UnsafePointer(), int(r.Elem().Type().Size())
		}
		if f.params != nil && f.params[i] != bytes {
			return fmt.Errorf("%s: argument %d (%T) has %d bytes, the kernel's parameter has %d", f.name, i, a, bytes, f.params[i])
		}
	}
	return nil
}

// Zero enqueues clearing n bytes.
func (c *Call) Zero(at Addr, n int64) error {
	if n == 0 {
		return nil
	}
	return c.Dev.api.Set(driver.Addr(at), 0, n, c.Stream.handle)
}

// Copy enqueues copying n bytes.
func (c *Call) Copy(dst, src Addr, n int64) error {
	if n == 0 || dst == src {
		return nil
	}
	return c.Dev.api.CopyAny(driver.Addr(dst), driver.Addr(src), n, c.Stream.handle)
}
