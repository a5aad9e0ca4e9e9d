package checkpoint

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

type runState struct {
	Step int
	Note string
}

func save(t testing.TB, m vfs.FS, step, keep int) error {
	t.Helper()
	return NewRun(m, "/d/run").Save(step, stepTensors(t, step), runState{step, "state"}, keep)
}

func stepTensors(t testing.TB, step int) []Named {
	return []Named{{"lora.A", f32s(t, []float32{float32(step), 1, 2, 3}, 2, 2)}, {"opt.step", tensor.Scalar(int64(step))}}
}

// intact checks that a saved checkpoint holds what was saved at its step.
func intact(t testing.TB, s *Saved) {
	t.Helper()
	var st runState
	require.NoError(t, s.State(&st))
	require.Equal(t, runState{s.Step, "state"}, st)
	f, err := s.Tensors()
	require.NoError(t, err)
	for _, want := range stepTensors(t, s.Step) {
		got, err := f.Read(want.Name)
		require.NoError(t, err)
		require.Equal(t, want.Tensor.Bytes(), got.Bytes())
	}
	require.NoError(t, f.Close())
}

func TestRunSaveLatestPurge(t *testing.T) {
	for _, fsys := range []vfs.FS{memory(t, nil), vfs.OS{}} {
		dir := "/d/run"
		if _, ok := fsys.(vfs.OS); ok {
			dir = filepath.Join(t.TempDir(), "a", "run")
		}
		r := NewRun(fsys, dir)
		r.Warn = func(msg string) { t.Error(msg) }
		_, err := r.Latest()
		require.ErrorIs(t, err, ErrNone)
		require.NoError(t, r.Recover())
		for step := 100; step <= 500; step += 100 {
			require.NoError(t, r.Save(step, stepTensors(t, step), runState{step, "state"}, 3))
		}
		s, err := r.Latest()
		require.NoError(t, err)
		require.Equal(t, 500, s.Step)
		require.Equal(t, "step-00000500", filepath.Base(s.Dir))
		require.Empty(t, s.Warnings)
		intact(t, s)
		steps, err := r.Steps()
		require.NoError(t, err)
		require.Equal(t, []int{500, 400, 300}, steps)
		s, err = r.At(300)
		require.NoError(t, err)
		intact(t, s)
		_, err = r.At(100)
		require.ErrorIs(t, err, ErrNone)
		require.NoError(t, r.Save(600, stepTensors(t, 600), runState{600, "state"}, 0))
		entries, err := fsys.ReadDir(filepath.Join(dir, "checkpoints"))
		require.NoError(t, err)
		require.Len(t, entries, 4, "keep 0 removes nothing, and nothing temporary is left")
		in, err := Inspect(fsys, dir)
		require.NoError(t, err)
		require.Equal(t, KindRun, in.Kind)
		require.Len(t, in.Checkpoints, 4)
		require.JSONEq(t, `{"Step":600,"Note":"state"}`, string(in.Config))
	}
}

func TestRunSameStepAgain(t *testing.T) {
	m := memory(t, nil)
	r := NewRun(m, "/d/run")
	require.NoError(t, save(t, m, 7, 3))
	require.NoError(t, save(t, m, 7, 3))
	entries, err := m.ReadDir("/d/run/checkpoints")
	require.NoError(t, err)
	require.Len(t, entries, 1, "the same contents are not stored twice")
	for i, want := range []string{"step-00000007.1", "step-00000007.2"} {
		require.NoError(t, r.Save(7, stepTensors(t, 7), runState{7, fmt.Sprint(i)}, 3))
		s, err := r.Latest()
		require.NoError(t, err)
		require.Equal(t, want, filepath.Base(s.Dir))
		entries, err = m.ReadDir("/d/run/checkpoints")
		require.NoError(t, err)
		require.Len(t, entries, 1, "the superseded one is removed")
	}
	require.NoError(t, r.Save(5, stepTensors(t, 5), runState{5, "state"}, 1))
	steps, err := r.Steps()
	require.NoError(t, err)
	require.Equal(t, []int{7, 5}, steps, "neither the newest nor the one just saved is removed")
}

func TestRunRefuses(t *testing.T) {
	m := memory(t, nil)
	r := NewRun(m, "/d/run")
	require.ErrorContains(t, r.Save(-1, nil, nil, 1), "negative")
	require.ErrorContains(t, r.Save(1, nil, math.NaN(), 1), "JSON")
	require.ErrorContains(t, r.Save(1, []Named{{"", tensor.Scalar(true)}}, nil, 1), "cannot be the name")
	require.ErrorContains(t, r.Save(1, []Named{{"a", nil}}, nil, 1), "is nil")
	_, err := m.Stat("/d/run")
	require.ErrorIs(t, err, fs.ErrNotExist)
	m.SetFree(1000)
	err = save(t, m, 1, 1)
	require.ErrorIs(t, err, ErrDisk)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "1000 are free")
	m.SetFree(1 << 20)
	require.NoError(t, save(t, m, 1, 1))
}

// flip changes one byte of a file in place.
func flip(t *testing.T, m vfs.FS, path string, at int) {
	b, err := vfs.ReadFile(m, path, 1<<20)
	require.NoError(t, err)
	b[at] ^= 1
	require.NoError(t, m.Remove(path))
	require.NoError(t, vfs.WriteFile(m, path, b))
}

func TestRunPassesOverDamage(t *testing.T) {
	const newest = "/d/run/checkpoints/step-00000002/"
	for name, damage := range map[string]func(m vfs.FS) error{
		"tensor byte": func(m vfs.FS) error { flip(t, m, newest+tensorsFile, 159); return nil },
		"state byte":  func(m vfs.FS) error { flip(t, m, newest+stateFile, 3); return nil },
		"no manifest": func(m vfs.FS) error { return m.Remove(newest + manifestFile) },
		"no tensors":  func(m vfs.FS) error { return m.Remove(newest + tensorsFile) },
		"cut short": func(m vfs.FS) error {
			if err := m.Remove(newest + stateFile); err != nil {
				return err
			}
			return vfs.WriteFile(m, newest+stateFile, []byte("{}"))
		},
		"manifest of another step": func(m vfs.FS) error {
			return m.Rename("/d/run/checkpoints/step-00000002", "/d/run/checkpoints/step-00000020")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory(t, nil)
			require.NoError(t, save(t, m, 1, 3))
			require.NoError(t, save(t, m, 2, 3))
			require.NoError(t, damage(m))
			s, err := NewRun(m, "/d/run").Latest()
			require.NoError(t, err)
			require.Equal(t, 1, s.Step)
			require.Len(t, s.Warnings, 1)
			require.Contains(t, s.Warnings[0], "passed over")
			intact(t, s)
			in, err := Inspect(m, "/d/run")
			require.NoError(t, err)
			require.False(t, in.Checkpoints[0].Intact)
			require.NotEmpty(t, in.Checkpoints[0].Problem)
			require.NoError(t, m.RemoveAll("/d/run/checkpoints/step-00000001"))
			_, err = NewRun(m, "/d/run").Latest()
			require.ErrorIs(t, err, ErrNoneIntact)
		})
	}
}

func TestRunIgnoresStrangers(t *testing.T) {
	m := memory(t, nil)
	require.NoError(t, save(t, m, 1, 1))
	for _, dir := range []string{"step-1", "step-99999999x", "step-00000009.0", "step-000000009", "step-99999999999999999999", "other"} {
		require.NoError(t, m.MkdirAll("/d/run/checkpoints/"+dir))
	}
	require.NoError(t, vfs.WriteFile(m, "/d/run/checkpoints/step-00000050", []byte("a file")))
	s, err := NewRun(m, "/d/run").Latest()
	require.NoError(t, err)
	require.Equal(t, 1, s.Step)
	require.Empty(t, s.Warnings)
}

// A fault at every operation of a save over an existing checkpoint (which purges it): afterwards the old or the new one is there,
// whole, and the next save works.
func TestRunEveryFault(t *testing.T) {
	base := memory(t, nil)
	require.NoError(t, save(t, base, 1, 1))
	count := base.Clone()
	require.NoError(t, save(t, count, 2, 1))
	ops := count.Ops()
	ran, old := 0, 0
	for at := 1; at <= ops; at++ {
		for kind := faultfs.Crash; kind <= faultfs.ShortWrite; kind++ {
			for _, sticky := range []bool{false, true} {
				if sticky && kind == faultfs.Crash {
					continue // a crash is sticky in any case
				}
				for seed := range uint64(8) {
					m := base.Clone()
					m.Arm(faultfs.Fault{At: at, Kind: kind, Sticky: sticky})
					err := save(t, m, 2, 1)
					if step := afterFault(t, m, err, faultfs.Disk(min(seed, uint64(faultfs.Torn))), seed); step == 1 {
						old++
					}
					ran++
				}
			}
		}
	}
	t.Logf("%d faults over %d operations: the old checkpoint %d times, the new one %d times, never neither\n%s", ran, ops, old, ran-old, strings.Join(count.Log(), "\n"))
}

func afterFault(t *testing.T, m *faultfs.FS, err error, disk faultfs.Disk, seed uint64) (step int) {
	t.Helper()
	if err != nil {
		require.ErrorIs(t, err, ErrDisk)
	}
	m.Restart(disk, seed)
	r := NewRun(m, "/d/run")
	s, lerr := r.Latest()
	require.NoError(t, lerr)
	if err == nil {
		require.Equal(t, 2, s.Step, "a save that returned nil is durable")
	}
	intact(t, s)
	require.NoError(t, r.Recover())
	entries, rerr := m.ReadDir("/d/run/checkpoints")
	require.NoError(t, rerr)
	for _, e := range entries {
		require.Equal(t, "step-", e.Name()[:5], "no leftovers")
	}
	require.NoError(t, save(t, m, 3, 1))
	next, lerr := r.Latest()
	require.NoError(t, lerr)
	require.Equal(t, 3, next.Step)
	intact(t, next)
	return s.Step
}

// The first save of a run, in folders that do not exist: nothing or the checkpoint, and no error but ErrNone.
func TestRunEveryFaultOfFirstSave(t *testing.T) {
	count := memory(t, nil)
	count.Arm(faultfs.Fault{})
	require.NoError(t, save(t, count, 1, 1))
	for at := 1; at <= count.Ops(); at++ {
		for kind := faultfs.Crash; kind <= faultfs.ShortWrite; kind++ {
			for seed := range uint64(8) {
				m := memory(t, nil)
				m.Arm(faultfs.Fault{At: at, Kind: kind})
				err := save(t, m, 1, 1)
				m.Restart(faultfs.Disk(min(seed, uint64(faultfs.Torn))), seed)
				s, lerr := NewRun(m, "/d/run").Latest()
				switch {
				case err == nil:
					require.NoError(t, lerr)
					intact(t, s)
				case lerr == nil:
					intact(t, s)
				default:
					// A torn disk may show the name before the fsync of the parent was reached: the contents were synced before.
					require.ErrorIs(t, lerr, ErrNone)
				}
			}
		}
	}
}

func TestManifest(t *testing.T) {
	good := `{"format":"bits-and-byes checkpoint","version":1,"step":3,"later":[{}],"files":[` +
		`{"name":"tensors.safetensors","size":1,"sha256":"` + strings.Repeat("a", 64) + `"},{"name":"state.json","size":0,"sha256":"` + strings.Repeat("0", 64) + `"}]}`
	_, err := parseManifest([]byte(good))
	require.NoError(t, err)
	for _, c := range [][3]string{
		{`"version":1`, `"version":2`, "format version 2"},
		{`"version":1`, `"version":-1`, "not negative"},
		{"bits-and-byes", "other", "its format"},
		{`"step":3,`, ``, "no step"},
		{`"step":3`, `"step":3,"step":4`, "occurs twice"},
		{"state.json", "../state.json", "plain file name"},
		{"state.json", "/state.json", "plain file name"},
		{"state.json", "tensors.safetensors", "listed twice"},
		{"state.json", "other.json", "does not list"},
		{"aaaa", "aaag", "no SHA-256"},
		{`"size":0,`, ``, "no size"},
		{`[{}]`, strings.Repeat("[", 100) + strings.Repeat("]", 100), "nested deeper"},
		{`[{}]`, `nul`, "expected a value"},
		{`[{}]`, `0x1`, "expected a value"},
		{`]}`, `]`, "found the end"},
		{`]}`, `]}}`, "expected the end"},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		require.NotEqual(t, good, bad)
		_, err := parseManifest([]byte(bad))
		require.ErrorContains(t, err, c[2], bad)
	}
}

func TestRunPinned(t *testing.T) {
	r := NewRun(memory(t, nil), "/d/run")
	save := func(step int) {
		t.Helper()
		require.NoError(t, r.Save(step, stepTensors(t, step), runState{step, "state"}, 2))
	}
	steps := func(want ...int) {
		t.Helper()
		got, err := r.Steps()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	save(1)
	r.Pinned = 1
	save(2)
	save(3)
	save(4)
	steps(4, 3, 1)
	r.Pinned = 3
	save(5)
	save(6)
	save(7)
	steps(7, 6, 3)
}
