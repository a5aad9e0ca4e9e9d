package device_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// backend is one of a kind and number; it opens nothing.
type backend struct {
	name  string
	count int
}

func (b backend) Name() string                      { return b.name }
func (b backend) Count() int                        { return b.count }
func (b backend) Open(i int) (device.Device, error) { return opened{name: b.name, i: i}, nil }

type opened struct {
	device.Device
	name string
	i    int
}

func TestRegistry(t *testing.T) {
	device.Apart(t)
	require.ErrorContains(t, device.Register(backend{"cpu", 1}), "registered twice")
	open := func(name string) opened {
		d, err := device.Open(name)
		require.NoError(t, err)
		return d.(opened)
	}
	kind := func(name string) string {
		d, err := device.Open(name)
		require.NoError(t, err)
		defer d.Close() //nolint:errcheck // nothing was allocated
		return d.Info().Kind
	}
	require.Equal(t, "cpu", kind("auto"))
	require.NoError(t, device.Register(backend{"absent", 0}))
	require.Equal(t, "cpu", kind(""), "a backend without devices is passed over")
	require.NoError(t, device.Register(backend{"gpu", 2}))
	require.Equal(t, "gpu", open("auto").name)
	require.Equal(t, 1, open("gpu:1").i)
	require.Equal(t, 0, open("gpu").i)
	for _, c := range []struct{ name, want string }{
		{"gpu:2", "2 gpu devices are present"}, {"gpu:-1", "2 gpu devices are present"}, {"absent", "0 absent devices"},
		{"gpu:threads=2", "gpu devices have no settings"},
		{"gpu:x", `"x" is not a device number`}, {"gpu:1x", "is not a device number"}, {"gpu:01", "is not a device number"},
		{"tpu", "is unknown; this program was built with: absent, cpu, gpu"},
	} {
		_, err := device.Open(c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
	require.Len(t, device.Backends(), 3)
	p := device.Ptr{Off: 5}
	require.Equal(t, int64(8), p.Add(3).Off)
}

type unusable struct{ backend }

func (unusable) Open(int) (device.Device, error) { return nil, errors.New("too old") }

func TestUnusableIsNotPassedOver(t *testing.T) {
	device.Apart(t)
	require.NoError(t, device.Register(unusable{backend{"accelerator", 1}})) // before the others by name
	_, err := device.Open("auto")
	require.ErrorContains(t, err, `device "accelerator": too old; device "cpu" is the processor`)
}

type explained struct{ backend }

func (explained) Explain() error { return errors.New("no driver was found") }

func TestAbsenceIsExplained(t *testing.T) {
	device.Apart(t)
	require.NoError(t, device.Register(explained{backend{"explained", 0}}))
	for _, name := range []string{"explained", "explained:1", "explained:threads=2"} {
		_, err := device.Open(name)
		require.Error(t, err)
		if name != "explained:threads=2" { // that it has no settings comes first
			require.ErrorContains(t, err, "0 explained devices are present: no driver was found")
		}
	}
}
