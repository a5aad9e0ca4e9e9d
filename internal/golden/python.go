package golden

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
)

// ExitMissing is what a script given to Python exits with when a module that it needs is not there; it prints which.
const ExitMissing = 42

// Python runs a script and returns what it prints. The interpreter is $BYES_PYTHON, else python3. The test is skipped where there is none,
// in short runs, and when the script exits with ExitMissing.
func Python(t testing.TB, script string, args ...string) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Python; left out of short runs")
	}
	name := os.Getenv("BYES_PYTHON")
	if name == "" {
		name = "python3"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no Python: %v; set BYES_PYTHON", err)
	}
	var stderr bytes.Buffer
	c := exec.Command(path, append([]string{"-c", script}, args...)...)
	c.Stderr = &stderr
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == ExitMissing {
		t.Skipf("%s lacks a module: %s%s; set BYES_PYTHON to one that has it", path, out, stderr.String())
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", path, err, out, stderr.String())
	}
	return out
}
