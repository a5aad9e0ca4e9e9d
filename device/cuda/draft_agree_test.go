package cuda

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
)

// TestDraftsAgree: for every op case there is a draft where there is a kernel, and a settled draft is that kernel, of whose programs it has named all. The
// libraries are the machine's or, on the emulator, stand-ins.
func TestDraftsAgree(t *testing.T) {
	testDevice(t)
	d := fresh
	if onEmulator() {
		d = strict
	}
	require.Positive(t, draftsAgree(t, d(t)))
}

// TestDraftsAgreeAlone: they agree where the library has no product, too.
func TestDraftsAgreeAlone(t *testing.T) {
	d := strict(t)
	emulator.SetSuggestions(t, 0)
	require.Zero(t, draftsAgree(t, d), "nothing is left open")
}

// draftsAgree returns how many drafts there were that are not the kernel yet.
func draftsAgree(t *testing.T, d *Device) (open int) {
	ran := 0
	for _, c := range optest.All() {
		if elementwise(&c, c.Types()[0]) {
			continue
		}
		for _, dt := range c.Types() {
			for _, n := range c.New(dt).Graph.Nodes() {
				s := device.Spec{Op: n.Op, In: n.InTypes(), Out: n.Out}
				draft, err := d.Draft(s)
				kernel, kerr := d.Kernel(s)
				require.Equal(t, errors.Is(kerr, device.ErrNoKernel), errors.Is(err, device.ErrNoKernel), "%s in %v: draft %v, kernel %v", c.Name, dt, err, kerr)
				require.Equal(t, kerr == nil, err == nil, "%s in %v: draft %v, kernel %v", c.Name, dt, err, kerr)
				if err != nil {
					continue
				}
				ran++
				if own := draft.(*Kernel); own.draft != nil {
					open++
					for _, m := range functionsOf(kernel) {
						assert.Contains(t, functionsOf(draft), m, "%s in %v: %s", c.Name, dt, kernel.(device.Named).KernelName())
					}
					require.NoError(t, d.settle(own))
				} else {
					require.Equal(t, modulesOf(needsOf(kernel)), modulesOf(needsOf(draft)), "%s in %v", c.Name, dt)
				}
				require.Equal(t, kernel.Scratch(), draft.Scratch(), "%s in %v", c.Name, dt)
				require.Equal(t, kernel.(device.Named).KernelName(), draft.(device.Named).KernelName(), "%s in %v", c.Name, dt)
			}
		}
	}
	require.Positive(t, ran)
	t.Logf("%d kernels, %d of them drafts first", ran, open)
	return open
}

// functionsOf are the functions that a kernel named, with their programs.
func functionsOf(k device.Kernel) (list []string) {
	for _, f := range needsOf(k) {
		list = append(list, f.module.src.Name+" "+f.name)
	}
	return list
}
