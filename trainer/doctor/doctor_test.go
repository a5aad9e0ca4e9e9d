package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

func TestRunMeasures(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for two seconds")
	}
	dir := t.TempDir()
	r, err := Run(context.Background(), Options{Dir: dir})
	require.NoError(t, err)
	require.NotEmpty(t, r.Devices)
	d := r.Devices[0]
	require.Equal(t, "cpu", d.Name)
	require.True(t, d.Default)
	require.Empty(t, d.Error)
	require.Positive(t, d.Limits.Flops["f32"])
	require.Positive(t, d.Limits.Read)
	require.Contains(t, topics(d), "attention")
	require.Positive(t, r.Disk.Write)
	require.Positive(t, r.Disk.Sync)
	left, err := vfs.OS{}.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "the file that was written is gone")

	var text, js bytes.Buffer
	require.NoError(t, r.WriteText(&text))
	for _, want := range []string{"device cpu (the default)", "measured arithmetic, f32", "durable writes", "products, int8"} {
		require.Contains(t, text.String(), want)
	}
	require.NoError(t, json.NewEncoder(&js).Encode(r))
	require.Contains(t, js.String(), `"findings":[`)
}

func topics(d Device) (out []string) {
	for _, f := range d.Facts {
		out = append(out, f.Topic)
	}
	return out
}

// uncompiled is a device without the compiler of its kernels.
type uncompiled struct {
	device.Device
	name    string
	present *int
}

func (u uncompiled) Name() string                    { return u.name }
func (u uncompiled) Count() int                      { return *u.present }
func (u uncompiled) Open(int) (device.Device, error) { return u, nil }
func (uncompiled) Info() device.Info                 { return device.Info{Name: "made up"} }
func (uncompiled) Close() error                      { return nil }
func (uncompiled) Kernel(device.Spec) (device.Kernel, error) {
	return nil, errors.New("no compiler was found")
}

func TestDeviceWithoutKernelsIsFound(t *testing.T) {
	present := 1
	defer func() { present = 0 }()                                                                // other tests look at all devices
	u := uncompiled{name: fmt.Sprintf("uncompiled%d", len(device.Backends())), present: &present} // a name that an earlier run has not taken
	require.NoError(t, device.Register(u))
	d, err := examine(context.Background(), u.name, true)
	require.NoError(t, err)
	require.Equal(t, "no kernel can be made for it: no compiler was found", d.Error)
	d, err = examine(context.Background(), "cpu", true)
	require.NoError(t, err)
	require.Empty(t, d.Error)
}

// impaired is a device that does without something.
type impaired struct {
	device.Device
	uncompiled
}

func (i impaired) Name() string                    { return i.name }
func (i impaired) Info() device.Info               { return i.uncompiled.Info() }
func (i impaired) Close() error                    { return nil }
func (i impaired) Open(int) (device.Device, error) { return i, nil }
func (i impaired) Problems() []device.Problem      { return nil }
func (i impaired) Check() []device.Problem {
	return []device.Problem{{What: "sums are wrong", Remedy: "use a pencil"}}
}
func (i impaired) Kernel(s device.Spec) (device.Kernel, error) { return i.Device.Kernel(s) }

// TestProblemsAreFindings: what a device finds wrong with itself stands among the findings.
func TestProblemsAreFindings(t *testing.T) {
	cpu, err := device.Open("cpu")
	require.NoError(t, err)
	defer func() { require.NoError(t, cpu.Close()) }()
	present := 1
	defer func() { present = 0 }()
	i := impaired{cpu, uncompiled{name: fmt.Sprintf("impaired%d", len(device.Backends())), present: &present}}
	require.NoError(t, device.Register(i))
	d, err := examine(context.Background(), i.name, true)
	require.NoError(t, err)
	require.Empty(t, d.Error)
	r := &Result{}
	r.judge(d)
	require.Equal(t, []Finding{{What: i.name + ": sums are wrong", Remedy: "use a pencil"}}, r.Findings)
}

func TestQuickMeasuresNothing(t *testing.T) {
	r, err := Run(context.Background(), Options{Dir: t.TempDir(), Quick: true})
	require.NoError(t, err)
	require.Nil(t, r.Devices[0].Limits)
	require.Zero(t, r.Disk.Write)
	require.NotEmpty(t, r.Devices[0].Facts)
}

// TestFindings: a folder that cannot be written, a full disk, and a device that does not open are findings, not failures.
func TestFindings(t *testing.T) {
	r, err := Run(context.Background(), Options{FS: broken{free: 100}, Dir: "out", Quick: true})
	require.NoError(t, err)
	require.Len(t, r.Findings, 2)
	require.Contains(t, r.Findings[0].What, "has only 100 B left")
	require.Contains(t, r.Findings[1].What, "nothing can be written to")
	require.Contains(t, r.Findings[1].What, "no such device")
	var text bytes.Buffer
	require.NoError(t, r.WriteText(&text))
	require.Contains(t, text.String(), "! nothing can be written")
	require.NotContains(t, text.String(), "nothing stands in the way")

	r.judge(Device{Name: "cuda", Error: "no driver"})
	r.judge(Device{Name: "cpu", MemoryFree: 1 << 20})
	require.Equal(t, "cuda: no driver", r.Findings[2].What)
	require.Contains(t, r.Findings[3].What, "cpu has only 1.00 MiB of memory free")
}

func TestRunStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Run(ctx, Options{Dir: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}

// broken is a file system that is nearly full and cannot be written.
type broken struct {
	vfs.OS
	free int64
}

func (broken) Create(string) (vfs.File, error) { return nil, errors.New("no such device") }
func (b broken) Free(string) (int64, error)    { return b.free, nil }
