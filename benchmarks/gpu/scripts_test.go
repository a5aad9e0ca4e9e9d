// Package gpu holds scripts only; their tests run them with programs that do nothing.
package gpu

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// script copies a script into a folder whose name has a space, and returns how to run it there, with what programs it finds first.
func script(t *testing.T, name string, programs map[string]string) func(env []string, args ...string) (string, error) {
	bash, err := exec.LookPath("bash")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("the scripts are for Linux, with bash")
	}
	dir := filepath.Join(t.TempDir(), "a folder", "benchmarks", "gpu")
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	put := func(path, text string) {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o777))
	}
	put("run.sh", "what pack.sh copies")
	put(name, string(text))
	put("version", "one")
	for path, text := range programs {
		put(path, "#!"+bash+"\n"+text+"\n")
	}
	return func(env []string, args ...string) (string, error) {
		cmd := exec.Command(bash, append([]string{filepath.Join(dir, name)}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "PATH="+filepath.Join(dir, "path")+":"+os.Getenv("PATH")), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// TestPackNeedsAFolder: without one, or where it cannot be made, nothing is built or removed.
func TestPackNeedsAFolder(t *testing.T) {
	nothing := map[string]string{}
	for _, name := range []string{"go", "git", "rm", "cp", "du"} {
		nothing["path/"+name] = "echo called " + name
	}
	run := script(t, "pack.sh", nothing)
	for says, args := range map[string][]string{"usage: pack.sh FOLDER": nil, "version": {"version"}} {
		out, err := run(nil, args...)
		require.Error(t, err, out)
		require.Contains(t, out, says)
		require.NotContains(t, out, "called")
	}
}

// TestPackNeedsItsData: golden data of which a part could not be copied is an error.
func TestPackNeedsItsData(t *testing.T) {
	run := script(t, "pack.sh", map[string]string{"path/go": "echo $GOOS-$GOARCH", "path/git": "", "path/cp": "exit 1"})
	out, err := run([]string{"BYES_TESTDATA=" + t.TempDir()}, filepath.Join(t.TempDir(), "to here"))
	require.Error(t, err, out)
	require.Contains(t, out, "linux-")
}

// TestRunTellsHowItWent: what failed, and that nothing ran, shows in the exit status.
func TestRunTellsHowItWent(t *testing.T) {
	for _, c := range []struct {
		only, cuda, says string
		ok               bool
	}{
		{"rest", "echo '--- PASS: TestOne (0.00s)'", "rest: ok", true},
		{"rest", "exit 3", "rest: **failed (3)**", false},
		{"ops_b", "exit 3", "ops_b: **failed (3)**", false},
		{"misspelt", "", "no part ran", false},
	} {
		run := script(t, "run.sh", map[string]string{"bin/trainer": "echo fine", "bin/cuda.test": c.cuda})
		out, err := run([]string{"ONLY=" + c.only, "OUT=an out", "OPS=a b"})
		require.Equal(t, c.ok, err == nil, out)
		require.NotContains(t, out, "kernels: ", "a part that ONLY does not name")
		require.Contains(t, out, c.says)
		require.Equal(t, !strings.Contains(c.says, "no part"), strings.Contains(out, "summary.md"))
	}
}
