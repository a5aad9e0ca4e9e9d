package checkpoint

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// Saved is an intact checkpoint of a run.
type Saved struct {
	// Step is the step it was saved at.
	Step int
	// Dir is its folder.
	Dir string
	// Warnings names the newer checkpoints that were passed over, and why.
	Warnings []string

	fsys vfs.FS
}

// Latest returns the newest checkpoint whose manifest, sizes and digests are right; every byte of it is read for that. The error
// matches ErrNone when the run has no checkpoint, and ErrNoneIntact when it has some and all are damaged: then nothing should be
// started afresh without the user's word.
func (r *Run) Latest() (*Saved, error) {
	folders, err := r.list()
	if err != nil {
		return nil, err
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("%s: %w", r.dir, ErrNone)
	}
	var warnings []string
	for _, f := range folders {
		s, err := r.verify(f.name)
		if err == nil {
			s.Warnings = warnings
			return s, nil
		}
		warnings = append(warnings, fmt.Sprintf("checkpoint %s was passed over: %v", f.name, err))
	}
	return nil, fmt.Errorf("%s: %w among %d: %s", r.dir, ErrNoneIntact, len(folders), strings.Join(warnings, "; "))
}

// At returns the checkpoint of one step, verified like Latest; of several saves of the step the newest intact one.
func (r *Run) At(step int) (*Saved, error) {
	folders, err := r.list()
	if err != nil {
		return nil, err
	}
	var first error
	for _, f := range folders {
		if f.step != step {
			continue
		}
		s, err := r.verify(f.name)
		if err == nil {
			return s, nil
		}
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return nil, fmt.Errorf("%s: %w at step %d: %w", r.dir, ErrNoneIntact, step, first)
	}
	return nil, fmt.Errorf("%s: %w at step %d", r.dir, ErrNone, step)
}

// Steps lists the steps that have a folder, newest first, intact or not.
func (r *Run) Steps() ([]int, error) {
	folders, err := r.list()
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range folders {
		if len(out) == 0 || out[len(out)-1] != f.step {
			out = append(out, f.step)
		}
	}
	return out, nil
}

// Tensors opens the checkpoint's tensors; the caller closes the file.
func (s *Saved) Tensors() (*File, error) {
	return OpenSafetensors(s.fsys, filepath.Join(s.Dir, tensorsFile))
}

// State decodes the checkpoint's state into v, as json.Unmarshal.
func (s *Saved) State(v any) error {
	path := filepath.Join(s.Dir, stateFile)
	raw, err := readSmall(s.fsys, path, maxState)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return &FormatError{File: path, Reason: err.Error(), Remedy: "the checkpoint was written by another version of the program: use that one"}
	}
	return nil
}

// verify checks one checkpoint whole.
func (r *Run) verify(name string) (*Saved, error) {
	dir := filepath.Join(r.dir, name)
	m, err := readManifest(r.fsys, dir)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(stepName(int(m.Step), 0)+".", strings.SplitN(name, ".", 2)[0]+".") {
		return nil, &FormatError{File: dir, Reason: fmt.Sprintf("its manifest is of step %d", m.Step), Remedy: "the checkpoint cannot be used"}
	}
	if err := m.checkSizes(r.fsys, dir); err != nil {
		return nil, err
	}
	if err := m.checkDigests(r.fsys, dir); err != nil {
		return nil, err
	}
	return &Saved{Step: int(m.Step), Dir: dir, fsys: r.fsys}, nil
}
