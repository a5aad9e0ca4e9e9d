package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// checkpointsDir is the folder of a run that holds its checkpoints.
const checkpointsDir = "checkpoints"

// Run keeps the checkpoints of a training run in DIR/checkpoints/step-00000123. A crash or a disk error at any moment of a save
// leaves the checkpoints of before intact:
//
//	write .tmp-step-N/{tensors.safetensors, state.json}, sync each; manifest.json with their sizes and SHA-256, sync; sync the folder
//	rename it to step-N; sync the parent; only then rename old checkpoints to .old-step-N, sync the parent, and remove them
//
// No pointer file names the newest one: Latest takes the first, from the newest down, whose manifest, sizes and digests are right.
// One process at a time may save to a run.
type Run struct {
	fsys vfs.FS
	dir  string
	// Warn, if set, receives what went wrong without harming the save, such as an old checkpoint that could not be removed.
	Warn func(message string)
	// Pinned is a step whose checkpoint Save does not remove, nor count among those it keeps; 0 = none. It is meant for the best one.
	Pinned int
}

// NewRun returns the checkpoints of the run in dir. Nothing is made or changed until Save.
func NewRun(fsys vfs.FS, dir string) *Run {
	fsys = vfs.Or(fsys)
	return &Run{fsys: fsys, dir: filepath.Join(dir, checkpointsDir)}
}

// Save writes a checkpoint. state is stored as JSON. When it returns nil the checkpoint is on the disk; older ones beyond the keep
// newest are then removed (keep <= 0 keeps all; checkpoints that are not whole do not count and are left alone). Errors of the
// disk match ErrDisk; training may go on after one, with the checkpoints of before.
//
// A second save of one step with other contents gets the name step-N.1 and replaces the first as the newest.
func (r *Run) Save(step int, tensors []Named, state any, keep int) error {
	if step < 0 {
		return fmt.Errorf("checkpoint: step %d is negative", step)
	}
	specs, byName, err := specsOf(r.dir, tensors)
	if err != nil {
		return err
	}
	head, order, err := encodeHeader(r.dir, specs, nil)
	if err != nil {
		return err
	}
	stateJSON, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("checkpoint: the state of step %d is no JSON: %w", step, err)
	}
	if len(stateJSON) > maxState {
		return fmt.Errorf("checkpoint: the state of step %d has %s", step, tooLarge(int64(len(stateJSON)), maxState))
	}
	fill := func(w io.Writer) error {
		_, err := w.Write(head)
		for i := 0; err == nil && i < len(order); i++ {
			_, err = w.Write(byName[order[i].Name].Bytes())
		}
		return err
	}
	size := int64(len(head)) + int64(len(stateJSON)) + maxManifestOfSave
	for _, s := range order {
		size += s.Type.Bytes()
	}
	saved, err := r.write(step, fill, stateJSON, size)
	if err != nil {
		return diskError(r.dir, err)
	}
	if keep > 0 {
		r.purge(saved, keep)
	}
	return nil
}

const maxManifestOfSave = 4096 // the manifest of two files, and folder entries, are smaller

// Recover removes what an interrupted save or purge left behind. Save does it as well; call it when a run starts.
func (r *Run) Recover() error {
	entries, err := r.fsys.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp-") || strings.HasPrefix(e.Name(), ".old-") {
			path := filepath.Join(r.dir, e.Name())
			errs = append(errs, diskError(path, r.fsys.RemoveAll(path)))
		}
	}
	return errors.Join(errs...)
}

// write makes the checkpoint durable under its final name, which it returns.
func (r *Run) write(step int, fill func(io.Writer) error, state []byte, size int64) (string, error) {
	if err := vfs.MkdirDurable(r.fsys, r.dir); err != nil {
		return "", err
	}
	if err := r.Recover(); err != nil {
		r.warn("leftovers of an earlier save could not be removed: %v", err)
	}
	if err := r.room(size); err != nil {
		return "", err
	}
	tmp := filepath.Join(r.dir, ".tmp-"+stepName(step, 0))
	name := ""
	manifest, err := r.writeFiles(tmp, step, fill, state)
	if err == nil {
		name, err = r.publish(tmp, step, manifest)
	}
	if err != nil {
		_ = r.fsys.RemoveAll(tmp) // the first error is the one to report; Recover tries again
	}
	return name, err
}

func (r *Run) writeFiles(tmp string, step int, fill func(io.Writer) error, state []byte) ([]byte, error) {
	if err := r.fsys.MkdirAll(tmp); err != nil {
		return nil, err
	}
	tensors, err := writeHashed(r.fsys, filepath.Join(tmp, tensorsFile), fill)
	if err != nil {
		return nil, err
	}
	stateItem, err := writeHashedBytes(r.fsys, filepath.Join(tmp, stateFile), state)
	if err != nil {
		return nil, err
	}
	m := &manifest{manifestFormat, manifestVersion, int64(step), []manifestItem{tensors, stateItem}}
	raw, err := m.encode()
	if err != nil {
		return nil, err
	}
	if err := vfs.WriteFile(r.fsys, filepath.Join(tmp, manifestFile), raw); err != nil {
		return nil, err
	}
	return raw, r.fsys.SyncDir(tmp)
}

// publish gives the finished folder its name. When the step has a checkpoint already, an equal and intact one is kept instead;
// otherwise the new one takes the next attempt, because a folder cannot be replaced in one operation.
func (r *Run) publish(tmp string, step int, manifest []byte) (string, error) {
	folders, err := r.list()
	if err != nil {
		return "", err
	}
	name := stepName(step, 0)
	if i := slices.IndexFunc(folders, func(f stepFolder) bool { return f.step == step }); i >= 0 {
		newest := folders[i]
		if r.same(newest.name, manifest) {
			if err := r.fsys.RemoveAll(tmp); err != nil {
				r.warn("leftovers of a save could not be removed: %v", err)
			}
			return newest.name, r.fsys.SyncDir(r.dir)
		}
		name = stepName(step, newest.attempt+1)
	}
	if err := r.fsys.Rename(tmp, filepath.Join(r.dir, name)); err != nil {
		return "", err
	}
	return name, r.fsys.SyncDir(r.dir)
}

// same reports whether a checkpoint is intact and has this manifest.
func (r *Run) same(name string, manifest []byte) bool {
	old, err := readSmall(r.fsys, filepath.Join(r.dir, name, manifestFile), maxManifest)
	if err != nil || !bytes.Equal(old, manifest) {
		return false
	}
	_, err = r.verify(name)
	return err == nil
}

// room compares the free space with what a save needs, where the file system can tell.
func (r *Run) room(size int64) error {
	f, ok := r.fsys.(vfs.FreeSpacer)
	if !ok {
		return nil
	}
	free, err := f.Free(r.dir)
	if err != nil || free >= size {
		return nil
	}
	return &fs.PathError{Op: "save", Path: r.dir, Err: fmt.Errorf("the checkpoint needs %d bytes and %d are free: %w", size, free, syscall.ENOSPC)}
}

// purge removes old whole checkpoints beyond the keep newest, never the one just saved.
func (r *Run) purge(saved string, keep int) {
	folders, err := r.list()
	if err != nil {
		r.warn("old checkpoints were not removed: %v", err)
		return
	}
	kept, lastStep := 0, -1
	for _, f := range folders {
		superseded := f.step == lastStep
		if f.name != saved {
			m, err := readManifest(r.fsys, filepath.Join(r.dir, f.name))
			if err == nil {
				err = m.checkSizes(r.fsys, filepath.Join(r.dir, f.name))
			}
			if err != nil {
				r.warn("checkpoint %s is not whole and was left alone: %v", f.name, err)
				continue
			}
		}
		lastStep = f.step
		if f.name != saved && f.step == r.Pinned && f.step > 0 && !superseded {
			continue
		}
		if f.name == saved || (kept < keep && !superseded) {
			kept++
			continue
		}
		if err := r.drop(f.name); err != nil {
			r.warn("the old checkpoint %s was not removed: %v", f.name, err)
		}
	}
}

// drop takes a checkpoint's name away first, so that a half-removed one is never looked at.
func (r *Run) drop(name string) error {
	aside := filepath.Join(r.dir, ".old-"+name)
	if err := r.fsys.Rename(filepath.Join(r.dir, name), aside); err != nil {
		return err
	}
	if err := r.fsys.SyncDir(r.dir); err != nil {
		return err
	}
	return r.fsys.RemoveAll(aside)
}

func (r *Run) warn(format string, args ...any) {
	if r.Warn != nil {
		r.Warn(fmt.Sprintf(format, args...))
	}
}

// stepFolder is a folder named like a checkpoint.
type stepFolder struct {
	name          string
	step, attempt int
}

var stepPattern = regexp.MustCompile(`^step-(\d{8,18})(?:\.([1-9]\d{0,5}))?$`)

func stepName(step, attempt int) string {
	if attempt == 0 {
		return fmt.Sprintf("step-%08d", step)
	}
	return fmt.Sprintf("step-%08d.%d", step, attempt)
}

// list returns the folders named like checkpoints, newest first; none when the run has no folder yet.
func (r *Run) list() ([]stepFolder, error) {
	entries, err := r.fsys.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []stepFolder
	for _, e := range entries {
		m := stepPattern.FindStringSubmatch(e.Name())
		if m == nil || !e.IsDir() {
			continue
		}
		step, err := strconv.ParseInt(m[1], 10, 64)
		attempt, _ := strconv.Atoi(m[2]) // "" is attempt 0
		if err == nil && step <= math.MaxInt && stepName(int(step), attempt) == e.Name() {
			out = append(out, stepFolder{e.Name(), int(step), attempt})
		}
	}
	slices.SortFunc(out, func(x, y stepFolder) int {
		return cmp.Or(cmp.Compare(y.step, x.step), cmp.Compare(y.attempt, x.attempt))
	})
	return out, nil
}
