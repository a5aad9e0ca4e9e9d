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
	require.NoError(t, device.Register(tuned{backend{"tuned", 2}}))
	require.Equal(t, 1, open("tuned:1").i)
	require.Equal(t, 1, open("tuned:1:fast=on").i)
	require.Equal(t, 0, open("tuned:fast=on").i)
	for _, c := range []struct{ name, want string }{
		{"gpu:2", `device "gpu:2": there are 2 gpu devices, gpu:0 to gpu:1`}, {"gpu:-1", "there are 2 gpu devices"}, {"absent", "there is no absent device"},
		{"gpu:threads=2", "gpu devices have no settings"}, {"gpu:1:threads=2", "gpu devices have no settings"}, {"gpu:", "is not a device number"},
		{"tuned:1:a=b:c", "a is b:c"}, {"tuned:1:a", `"a" is not a setting; write KEY=VALUE`}, {"tuned:1:", "is not a setting"},
		{"tuned:2:a=b", "there are 2 tuned devices"}, {"tuned:a=b:1", "a is b:1"},
		{"gpu:x", `"x" is not a device number`}, {"gpu:1x", "is not a device number"}, {"gpu:01", "is not a device number"},
		{"tpu", "is unknown; this program was built with: absent, cpu, gpu, tuned"},
	} {
		_, err := device.Open(c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
	require.Len(t, device.Backends(), 4)
	p := device.Ptr{Off: 5}
	require.Equal(t, int64(8), p.Add(3).Off)
}

// tuned has a setting that can be on, and refuses what else it is told.
type tuned struct{ backend }

func (b tuned) OpenWith(i int, key, value string) (device.Device, error) {
	if value != "on" {
		return nil, errors.New(key + " is " + value)
	}
	return b.Open(i)
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
	for _, name := range []string{"explained", "explained:1"} {
		_, err := device.Open(name)
		require.EqualError(t, err, "device \""+name+"\": there is no explained device: no driver was found")
	}
}
