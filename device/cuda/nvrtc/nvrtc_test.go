package nvrtc

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// compiler opens the NVRTC of this machine, whatever its version.
func compiler(t *testing.T) *Compiler {
	c, err := Open(Want{Driver: 13990, Capability: 90})
	if err != nil {
		t.Skip(err)
	}
	return c
}

func TestArch(t *testing.T) {
	c := &Compiler{version: 13000, archs: []int{75, 80, 86, 89, 90, 100, 103, 120}}
	for _, r := range []struct {
		capability int
		want       string
	}{{75, "sm_75"}, {80, "sm_80"}, {87, "sm_86"}, {90, "sm_90a"}, {100, "sm_100a"}, {101, "sm_100"}, {121, "sm_120"}, {130, "compute_120"}} {
		got, err := c.Arch(r.capability)
		require.NoError(t, err)
		require.Equal(t, r.want, got, "%d", r.capability)
	}
	old := &Compiler{version: 12080, archs: []int{80, 86, 87, 89, 90, 100, 101, 120}}
	for capability, want := range map[int]string{87: "sm_87", 88: "sm_86", 103: "sm_100", 110: "compute_100"} {
		got, err := old.Arch(capability)
		require.NoError(t, err)
		require.Equal(t, want, got, "not the code of another kind of system")
	}
	_, err := c.Arch(70)
	require.ErrorContains(t, err, "compiles for compute capability 7.5 and newer, and this device has 7.0")
	_, err = Open(Want{Driver: 11080, Capability: 90})
	require.ErrorContains(t, err, "no NVRTC fits a driver for CUDA 11.8")
}

func TestCompile(t *testing.T) {
	c := compiler(t)
	for _, capability := range []int{75, 80, 90, 120, 990} {
		arch, err := c.Arch(capability)
		require.NoError(t, err)
		src := Source{Name: "add.cu", Arch: arch, Text: `extern "C" __global__ void add(float *p) { p[threadIdx.x] += 1; }`}
		image, err := c.Compile(src)
		require.NoError(t, err)
		if capability == 990 {
			require.Contains(t, string(image), ".visible .entry add")
		}
		src.Text = "this is no code"
		_, err = c.Compile(src)
		var ce *CompileError
		require.ErrorAs(t, err, &ce)
		require.Contains(t, err.Error(), "add.cu does not compile for "+arch)
	}
}

func TestCacheKeepsAndRepairs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(CacheVariable, dir)
	c := NewCache()
	require.Equal(t, filepath.Join(dir, "cubin"), c.Dir())
	key := [32]byte{1}
	_, ok := c.Get(key)
	require.False(t, ok)
	c.Put(key, []byte("code"))
	require.NoError(t, c.Problem())
	got, ok := c.Get(key)
	require.True(t, ok)
	require.Equal(t, "code", string(got))
	b, err := os.ReadFile(c.file(key))
	require.NoError(t, err)
	for _, bad := range [][]byte{b[:len(b)-1], append([]byte{b[0] ^ 1}, b[1:]...), nil} {
		require.NoError(t, os.WriteFile(c.file(key), bad, 0o644))
		_, ok = c.Get(key)
		require.False(t, ok, "damaged")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := &Cache{dir: t.TempDir(), limit: 4 * (1000 + 32)}
	for i := range 10 {
		c.Put([32]byte{byte(i)}, make([]byte, 1000))
		at := time.Now().Add(time.Duration(i-20) * time.Minute)
		require.NoError(t, os.Chtimes(c.file([32]byte{byte(i)}), at, at))
	}
	half := filepath.Join(c.dir, ".writing-1")
	require.NoError(t, os.WriteFile(half, nil, 0o644))
	old := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(half, old, old))
	_, ok := c.Get([32]byte{0}) // the oldest, used now
	require.True(t, ok)
	c.sweep()
	require.NoFileExists(t, half)
	for i, want := range []bool{true, false, false, false, false, false, false, true, true, true} {
		_, ok := c.Get([32]byte{byte(i)})
		require.Equal(t, want, ok, "%d", i)
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	c := &Cache{dir: filepath.Join(file, "sub"), limit: 1}
	c.Put([32]byte{}, []byte("x"))
	require.ErrorContains(t, c.Problem(), "compiled kernels are not kept")
	_, ok := c.Get([32]byte{})
	require.False(t, ok)
}

// Several writers of one key, and readers beside them: a reader sees the whole or nothing.
func TestCacheConcurrent(t *testing.T) {
	c := &Cache{dir: t.TempDir(), limit: DefaultLimit}
	image := make([]byte, 100_000)
	for i := range image {
		image[i] = byte(i * 7)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			other := &Cache{dir: c.dir, limit: DefaultLimit} // as another process has
			for range 20 {
				other.Put([32]byte{9}, image)
				if got, ok := other.Get([32]byte{9}); ok && len(got) != len(image) {
					t.Error("a torn file was read")
				}
			}
		})
	}
	wg.Wait()
	got, ok := c.Get([32]byte{9})
	require.True(t, ok)
	require.Equal(t, image, got)
	require.NoError(t, c.Problem())
}

func TestBuildCompilesOnce(t *testing.T) {
	compiler := compiler(t)
	c := &Cache{dir: t.TempDir(), limit: DefaultLimit}
	src := Source{Name: "one.cu", Arch: "sm_80", Text: `extern "C" __global__ void one(int *p) { *p = 1; }`}
	a, fresh, err := c.Build(compiler, src)
	require.NoError(t, err)
	require.True(t, fresh)
	b, fresh, err := c.Build(compiler, src)
	require.NoError(t, err)
	require.False(t, fresh)
	require.Equal(t, a, b)
	src.Options = []string{"--fmad=false"}
	_, fresh, err = c.Build(compiler, src)
	require.NoError(t, err)
	require.True(t, fresh, "options are part of the key")
	c.Drop(compiler, src)
	_, fresh, err = c.Build(compiler, src)
	require.NoError(t, err)
	require.True(t, fresh)
}
