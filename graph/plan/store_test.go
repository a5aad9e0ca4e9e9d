package plan_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// single is a device that counts how often two goroutines use its queue at a time, which streams do not allow.
type single struct {
	device.Device
	inside, collisions atomic.Int32
}

func (d *single) Stream(i int) device.Stream { return singleStream{d.Device.Stream(i), d} }

func (d *single) alone(f func() error) error {
	defer d.inside.Add(-1)
	if d.inside.Add(1) > 1 {
		d.collisions.Add(1)
	}
	for range 10 {
		runtime.Gosched()
	}
	return f()
}

type singleStream struct {
	device.Stream
	dev *single
}

func (s singleStream) Upload(dst device.Ptr, src []byte) error {
	return s.dev.alone(func() error { return s.Stream.Upload(dst, src) })
}

func (s singleStream) Download(dst []byte, src device.Ptr) error {
	return s.dev.alone(func() error { return s.Stream.Download(dst, src) })
}

// TestStoreIsSafeForLoaders: goroutines set, read and drop variables of their own while others ask what there is.
func TestStoreIsSafeForLoaders(t *testing.T) {
	dev := &single{Device: cpu.New(cpu.Options{Threads: 1})}
	store := plan.NewStore(dev)
	var loaders sync.WaitGroup
	for l := range 4 {
		v := graph.NewVar(fmt.Sprint("v", l), tensor.T(tensor.F32, 3))
		loaders.Go(func() {
			for i := range 200 {
				want, err := tensor.Of([]float32{float32(l), float32(i), 1})
				if err == nil {
					err = store.Set(v, want)
				}
				got, err2 := store.Get(v)
				if err != nil || err2 != nil || got.At(0) != float64(l) || got.At(1) != float64(i) {
					t.Errorf("loader %d, value %d: %v, %v, %v", l, i, got, err, err2)
					return
				}
				if i%50 == 49 {
					err = store.Drop(v)
				}
				if n := len(store.Vars()); err != nil || n > 4 || store.Bytes() > 4*64 {
					t.Errorf("%d variables: %v", n, err)
					return
				}
			}
		})
	}
	loaders.Wait()
	require.Zero(t, dev.collisions.Load(), "the queue belongs to one goroutine at a time")
	require.NoError(t, store.Close())
	require.NoError(t, dev.Close())
}
