package ffi

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// libm opens C's mathematics, which every Linux with a dynamic loader has.
func libm(t *testing.T) *Library {
	if !Supported || runtime.GOOS != "linux" {
		t.Skip("this build opens no libraries, or the system is not Linux")
	}
	l, err := Open(Search{What: "the C mathematics library", Unix: []string{"libm.so.6"}})
	require.NoError(t, err)
	return l
}

func TestLoadAndCall(t *testing.T) {
	require.True(t, filepath.IsAbs(libm(t).Path()), "the file behind the bare name is found")
	c, err := Open(Search{What: "libc", Unix: []string{"libc.so.6"}})
	require.NoError(t, err)
	var table struct {
		Strlen Proc `c:"strlen"`
		Memcpy Proc `c:"memcpy"`
		Absent Proc `c:"no_such_function,optional"`
		note   string
	}
	require.NoError(t, c.Load(&table))
	require.Empty(t, table.note)
	require.True(t, table.Strlen.Present())
	require.False(t, table.Absent.Present())
	require.Equal(t, uintptr(Absent), table.Absent.Call(1, 2))
	text := CString("seven")
	require.Equal(t, uintptr(5), table.Strlen.Call(uintptr(unsafe.Pointer(&text[0]))))

	from, to := []byte("0123456789abcdef"), make([]byte, 16)
	args := make([]uintptr, 3)
	allocs := testing.AllocsPerRun(100, func() {
		args[0], args[1], args[2] = uintptr(unsafe.Pointer(&to[0])), uintptr(unsafe.Pointer(&from[0])), 16
		table.Memcpy.Call(args...)
	})
	require.Equal(t, from, to)
	require.Zero(t, allocs, "a call with a reused slice does not allocate")
	require.Equal(t, "seven", Text(uintptr(unsafe.Pointer(&text[0])), 100))
	require.Equal(t, "sev", Text(uintptr(unsafe.Pointer(&text[0])), 3))
	require.Equal(t, from, Memory(uintptr(unsafe.Pointer(&from[0])), 16))

	var missing struct {
		A Proc `c:"not_here"`
		B Proc `c:"nor_here"`
	}
	require.ErrorContains(t, c.Load(&missing), "not_here, nor_here")
	require.Error(t, c.Load(missing))
	var hidden struct {
		strlen Proc `c:"strlen"`
	}
	require.ErrorContains(t, c.Load(&hidden), "field strlen has a tag c but is no exported Proc")
	require.False(t, hidden.strlen.Present())
	var other struct {
		Strlen uintptr `c:"strlen"`
	}
	require.ErrorContains(t, c.Load(&other), "no exported Proc")
}

func TestAbsentTellsWhatWasTried(t *testing.T) {
	home, site := t.TempDir(), t.TempDir()
	pip := filepath.Join(site, "lib", "python3.12", "site-packages", "nvidia", "made_up", "lib")
	require.NoError(t, os.MkdirAll(filepath.Join(home, "lib64"), 0o755))
	require.NoError(t, os.MkdirAll(pip, 0o755))
	broken := filepath.Join(pip, "libmadeup.so.2")
	require.NoError(t, os.WriteFile(broken, []byte("not a library"), 0o644))
	t.Setenv(PathVariable, filepath.Join(home, "first"))
	t.Setenv("CUDA_HOME", home)
	t.Setenv("VIRTUAL_ENV", site)
	_, err := Open(Search{What: "the made-up library", Unix: []string{"libmadeup.so.2"}, Windows: []string{"libmadeup.so.2"}, Remedy: "make it up"})
	require.ErrorContains(t, err, "the made-up library")
	if !Supported {
		require.ErrorContains(t, err, "built without")
		return
	}
	require.ErrorContains(t, err, "make it up")
	require.ErrorContains(t, err, filepath.Join(home, "first"))
	if runtime.GOOS == "linux" {
		require.ErrorContains(t, err, filepath.Join(home, "lib64"))
		require.ErrorContains(t, err, broken+": ")
	}

	t.Setenv(PathVariable, home+string(os.PathListSeparator)+"-")
	_, err = Open(Search{What: "the made-up library", Unix: []string{"libmadeup.so.2"}, Windows: []string{"libmadeup.so.2"}})
	require.ErrorContains(t, err, home)
	require.NotContains(t, err.Error(), pip, "the search ended at the dash")
}

func TestNewestVersionComesFirst(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for _, name := range []string{"cuda-12.10", "cuda-12.9", "cuda-12", "cuda-9.2"} {
		want = append(want, filepath.Join(dir, name))
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	require.Equal(t, want, existing([]string{filepath.Join(dir, "cuda-*"), filepath.Join(dir, "cuda-9*")}))
	require.Zero(t, compareVersions("a01b", "a1b"))
	require.Negative(t, compareVersions("a1", "a1b"))
	require.Negative(t, compareVersions("2", "b"))
}

// The library's own folder is looked at for helpers, which are opened first and visible to it.
func TestHelpersBeside(t *testing.T) {
	libm(t)
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler")
	}
	dir := t.TempDir()
	build := func(name, code string) {
		src := filepath.Join(t.TempDir(), name+".c")
		require.NoError(t, os.WriteFile(src, []byte(code), 0o644))
		out, err := exec.Command(cc, "-shared", "-fPIC", "-o", filepath.Join(dir, name), src).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	build("libbyeshelper.so.1", "int byes_helper(void) { return 41; }")
	build("libbyesmain.so.1", "int byes_helper(void); int byes_main(void) { return byes_helper() + 1; }")
	t.Setenv(PathVariable, dir)
	l, err := Open(Search{What: "main", Unix: []string{"libbyesmain.so.1"}, Before: []string{"libbyeshelper.so*"}})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "libbyesmain.so.1"), l.Path())
	p, err := l.Proc("byes_main")
	require.NoError(t, err)
	require.Equal(t, uintptr(42), p.Call())
	_, err = l.Proc("nothing")
	require.Error(t, err)
	t.Chdir(dir)
	t.Setenv(PathVariable, ".")
	l, err = Open(Search{What: "main", Unix: []string{"libbyesmain.so.1"}, Before: []string{"libbyeshelper.so*"}})
	require.NoError(t, err, "the working folder, where it is named")
	require.True(t, filepath.IsAbs(l.Path()))
}
