package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestAttentionGroup: the kernels by warpgroups, with all their tiles, over more of these than are in memory, documents, windows and queries that see nothing.
func TestAttentionGroup(t *testing.T) {
	d := testDevice(t)
	require.NoError(t, d.groupsRight(tensor.BF16))
	require.NoError(t, d.groupsRight(tensor.F16))
	causal, group := ops.Attention{Scale: 0.1, Causal: true}, ownAttention[3]
	for _, c := range []attnCase{
		{name: "long", b: 1, tq: 530, tk: 530, hq: 2, hkv: 1, d: 64, op: causal},
		{name: "documents", b: 2, tq: 300, tk: 300, hq: 2, hkv: 2, d: 128, op: causal, doc: starts(2, 300, 1, 140, 9, 33)},
		{name: "halves", b: 1, tq: 330, tk: 330, hq: 2, hkv: 1, d: 64, op: causal, doc: starts(1, 330, 64, 70, 190)},
		{name: "window", b: 1, tq: 400, tk: 400, hq: 1, hkv: 1, d: 64, op: ops.Attention{Scale: 0.1, Causal: true, Window: 130}},
		{name: "cached", b: 3, tq: 70, tk: 260, hq: 2, hkv: 1, d: 64, op: ops.Attention{Scale: 0.1, Causal: true, HeadMajor: true},
			offset: []int32{0, 100, 190}, lens: []int32{0, 120, 260}},
	} {
		c.dtype = tensor.BF16
		t.Run(c.name, func(t *testing.T) {
			want := c.reference(t)
			c.compute(t, d, group).near(t, want, attnLimits[c.dtype])
			if c.d != 64 && onEmulator() {
				return
			}
			for i := range groupTilesForward {
				tiles := attnChoice{forward: func(a *attention) (attnRun, error) { return a.groupTiled(groupTilesForward[i]) },
					backward: func(a *attention) (attnRun, error) {
						return a.groupGradTiled(groupTilesDQ[i%len(groupTilesDQ)], groupTilesDKV[i%len(groupTilesDKV)])
					}}
				c.compute(t, d, tiles).near(t, want, attnLimits[c.dtype])
			}
		})
	}
}

// TestGroupsWhileRecording: a device checks its products while another goroutine records the first queue.
func TestGroupsWhileRecording(t *testing.T) {
	d := testDevice(t)
	if d.Capability() != attnGroupCapability {
		t.Skip("no products by warpgroups")
	}
	d.warpgroups.checked = nil
	g, err := d.Capture(d.Stream(0), func() error {
		done := make(chan error)
		go func() { done <- d.groupsRight(tensor.BF16) }()
		return <-done
	})
	require.NoError(t, err)
	require.NoError(t, g.Free())
}

// TestGroupsOfOldCompilers: a compiler that does not know the device has no products by warpgroups for it, and none is tried.
func TestGroupsOfOldCompilers(t *testing.T) {
	d := testDevice(t)
	arch, err := d.arch()
	require.NoError(t, err)
	d.compile.arch = "compute_86"
	defer func() { d.compile.arch = arch }()
	require.ErrorContains(t, d.checkGroups(tensor.BF16), "code for compute_86 has no products by warpgroups")
	checked := d.warpgroups.checked
	defer func() { d.warpgroups.checked = checked }()
	d.warpgroups.checked = nil
	require.Empty(t, d.Problems(), "nothing is known before the first use")
	problems := d.Check()
	require.Len(t, problems, len(groupTypes))
	require.Contains(t, problems[0].What, "attention in bf16 does without products by warpgroups")
	require.Contains(t, problems[0].What, "compute_86")
	require.Equal(t, problems, d.Problems())
}

// TestGroupsTriedAgain: an error on the way to a verdict is told, by a run that needs it too, and is no verdict: the next question has the device check again.
func TestGroupsTriedAgain(t *testing.T) {
	testDevice(t)
	if !onEmulator() {
		t.Skip("memory of a GPU is not filled for a test")
	}
	require.NoError(t, emulator.Set("capability=90,memory=570000000"))
	defer func() { require.NoError(t, emulator.Reset()) }()
	d, err := New(Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	all, err := d.Alloc(d.Info().MemoryFree)
	require.NoError(t, err)
	require.ErrorContains(t, d.groupsRight(tensor.BF16), "products by warpgroups in bf16 cannot be checked: ")
	q, lse := tensor.T(tensor.BF16, 1, 128, 1, 64), tensor.T(tensor.F32, 1, 1, 128)
	s := device.Spec{Op: ops.Attention{Scale: 1}, In: []tensor.Type{q, q, q, {}, {}, {}, {}, {}}, Out: []tensor.Type{q, lse}}
	_, err = d.Kernel(s)
	require.ErrorContains(t, err, "cannot be checked")
	problems := d.Check()
	require.Len(t, problems, len(groupTypes))
	require.Contains(t, problems[0].What, "cannot be checked")
	require.Empty(t, d.Problems(), "none of them is known")
	require.NoError(t, all.Free())
	require.NoError(t, d.groupsRight(tensor.BF16))
	k, err := d.Kernel(s)
	require.NoError(t, err)
	require.Equal(t, "attention_group", k.(device.Named).KernelName())
	require.Empty(t, d.Check())
}

// TestGroupPrograms: NVIDIA's compiler takes every kernel by warpgroups.
func TestGroupPrograms(t *testing.T) {
	if hasGPU() {
		t.Skip("the device compiles them in the other tests")
	}
	emulator.Use(t)
	driver := emulated(t)
	compiler := realCompiler(t, attnGroupCapability)
	t.Setenv(ffi.PathVariable, driver)
	require.NoError(t, emulator.Set("compile=0,capability=90"))
	defer func() { require.NoError(t, emulator.Reset()) }()
	d, err := New(Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	for _, c := range []struct {
		dtype   tensor.DType
		size    int
		softCap float32
	}{{tensor.BF16, 64, 0}, {tensor.BF16, 128, 0}, {tensor.BF16, 128, 4}, {tensor.F16, 128, 0}} {
		_ = d.groupsRight(c.dtype) // nothing is computed here
		q := tensor.T(c.dtype, 1, 256, 2, c.size)
		a, err := newAttention(d, ops.Attention{Scale: 1, SoftCap: c.softCap}, device.Spec{In: []tensor.Type{q, q, q}})
		require.NoError(t, err)
		for _, tile := range groupTilesForward {
			_, err = a.groupTiled(tile)
			require.NoError(t, err)
		}
		for _, tq := range groupTilesDQ {
			for _, tk := range groupTilesDKV {
				_, err = a.groupGradTiled(tq, tk)
				require.NoError(t, err)
			}
		}
	}
	sources := d.Programs()
	require.GreaterOrEqual(t, len(sources), 2+4*(len(groupTilesForward)+len(groupTilesDKV)))
	for _, s := range sources {
		_, err := compiler.Compile(s)
		require.NoError(t, err)
	}
}
