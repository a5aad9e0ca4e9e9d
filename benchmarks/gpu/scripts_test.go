// Package gpu holds scripts only; their tests run them with programs that do nothing.
package gpu

import (
	"fmt"
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

// listing is a test program that names its tests when asked, and else does what a script says.
func listing(does string) string {
	return `if [[ $1 == -test.list ]]; then printf '%s\n' TestA TestB TestDevice TestProducts TestAllocTellsWhatIsFree ok; exit; fi
` + does
}

const cudaTest = "tests/device/cuda/cuda.test"

// TestRunTellsHowItWent: what failed, was stopped or did not begin, and that nothing ran, shows in the exit status.
func TestRunTellsHowItWent(t *testing.T) {
	for _, c := range []struct {
		only, total, cuda, says string
		ok                      bool
	}{
		{"alone", "90", "echo '--- PASS: TestOne (0.00s)'", "alone: ok", true},
		{"alone", "90", "exit 3", "alone: **failed (3)**", false},
		{"ops_2", "90", "[[ $BYES_TEST_PART == 2/2 && ${PWD##*/} == cuda ]]", "ops_2: ok", true},
		{"ops_1", "90", "exit 3", "ops_1: **failed (3)**", false},
		{"rest_[12]", "90", "[[ $2 =~ ^.\\(Test[AB]\\).$ ]]", "rest_2: ok", true},
		{"device", "90", "sleep 60", "device: **stopped after 3 s", false},
		{"golden_lora", "10", "", "golden_lora: **not begun**", false},
		{"misspelt", "90", "", "no part ran", false},
	} {
		run := script(t, "run.sh", map[string]string{"bin/trainer": "echo fine", cudaTest: listing(c.cuda), "tests/lora/lora.test": "", "bin/kernels": "exit 1"})
		limit := "600"
		if strings.Contains(c.says, "stopped") {
			limit = "3" // the shortest that a part begins with: TOTAL would count what the script itself has taken
		}
		out, err := run([]string{"ONLY=" + c.only, "LOGS=an out", "JOBS=2", "TOTAL=" + c.total, "LIMIT=" + limit}, "tests", "kernels")
		require.Equal(t, c.ok, err == nil, out)
		require.NotContains(t, out, "kernels: ", "a part that ONLY does not name")
		require.Contains(t, out, c.says)
		require.Equal(t, !strings.Contains(c.says, "no part"), strings.Contains(out, "summary.md"))
	}
}

// TestRunAsksForWholeNumbers: a limit that is none is refused before anything runs.
func TestRunAsksForWholeNumbers(t *testing.T) {
	run := script(t, "run.sh", map[string]string{"bin/trainer": "echo called"})
	for _, wrong := range []string{"JOBS=0", "LIMIT=x", "TOTAL=-3"} {
		out, err := run([]string{wrong})
		require.Error(t, err)
		require.Contains(t, out, "want a whole number")
		require.NotContains(t, out, "called")
	}
}

// TestSanitizerCountsCases: what ran under compute-sanitizer is named, with what there was no time for, and comes home with few files.
func TestSanitizerCountsCases(t *testing.T) {
	run := script(t, "run.sh", map[string]string{"bin/trainer": "echo fine",
		cudaTest: listing(`[[ $BYES_TEST_SECONDS -ge ${LIMIT:-90}/2 && $BYES_TEST_SECONDS -lt ${LIMIT:-600} ]] || exit 4
echo "=== RUN   TestDevice/Ops/add/f32"
echo "    --- PASS: TestDevice/Ops/add/f32 (0.01s)"
echo "    devicetest.go:1: the time that BYES_TEST_SECONDS gives is over"
echo "    --- SKIP: TestDevice/Ops/zero/f32 (0.00s)"`),
		"path/compute-sanitizer": `[[ "$1 $2" == "--tool memcheck" ]] || exit 5
"${@:5}"; rc=$?; echo "========= ERROR SUMMARY: 0 errors"; exit $rc`,
	})
	out, err := run([]string{"JOBS=2", "LIMIT=60", "LOGS=a short one"}, "sanitizer")
	require.NoError(t, err, "there is time left to come to an end: %s", out)
	home := filepath.Join(t.TempDir(), "to carry")
	out, err = run([]string{"JOBS=2", "INTO=" + home, "LOGS=out"}, "sanitizer")
	require.NoError(t, err, out)
	for _, part := range []string{"sanitizer_ops_1: ok", "sanitizer_ops_2: ok", "sanitizer_device: ok"} {
		require.Contains(t, out, part)
	}
	files, err := os.ReadDir(home)
	require.NoError(t, err)
	require.Len(t, files, 3)
	text, err := os.ReadFile(filepath.Join(home, "summary.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "3 cases passed, 0 failed")
	require.Contains(t, string(text), "3 left out for time, 0 accesses")
	text, err = os.ReadFile(filepath.Join(home, "sanitizer_cases.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "    add: f32")
}

// TestTablesAreReplaced: a table stands once between its lines, however often it is written, and nothing else of the page changes.
func TestTablesAreReplaced(t *testing.T) {
	page := "before\n<!-- h200/kernels.json -->\n%s<!-- end -->\nbetween\n<!-- end -->\nafter\n"
	run := script(t, "tables.sh", map[string]string{"path/go": `echo "| $* |"; exit ${FAILS:-0}`, "../RESULTS.md": fmt.Sprintf(page, "an old row\n"), "../h200/kernels.json": "{}"})
	for range 2 {
		out, err := run(nil, "benchmarks/h200")
		require.NoError(t, err, out)
	}
	out, err := run([]string{"FAILS=1"}, "benchmarks/h200")
	require.Error(t, err, "what was there stays: %s", out)
	found, err := filepath.Glob(filepath.Join(filepath.Dir(t.TempDir()), "*", "*", "*", "RESULTS.md"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	text, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.Contains(t, string(text), fmt.Sprintf(page, "| run ./cuda -read h200/kernels.json |\n"))

	for _, page := range []string{"nothing\n", "<!-- end -->\n<!-- h200/trainings.jsonl -->\nall that follows\n"} {
		run = script(t, "tables.sh", map[string]string{"path/go": "", "../RESULTS.md": page, "../h200/trainings.jsonl": "{}"})
		out, err := run(nil, "benchmarks/h200")
		require.Error(t, err)
		require.Contains(t, out, "no place")
	}
}
