package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"
)

// ManifestFormat is the version of manifest.json's layout.
const ManifestFormat = 1

// maxManifest bounds a manifest that is read.
const maxManifest = 16 << 20

// Manifest says what a run was made of and what it made. Hashes are SHA-256 in hex. Empty fields are left out of the file.
type Manifest struct {
	Format   int       `json:"format"`
	Command  string    `json:"command,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	Versions Versions  `json:"versions"`

	Model           string     `json:"model,omitempty"`
	ConfigSHA256    string     `json:"config_sha256,omitempty"`
	TemplateSHA256  string     `json:"template_sha256,omitempty"`
	TokenizerSHA256 string     `json:"tokenizer_sha256,omitempty"`
	Data            []DataFile `json:"data,omitempty"`

	Device    string            `json:"device,omitempty"`
	Libraries map[string]string `json:"libraries,omitempty"` // name to version or path
	Kernels   map[string]string `json:"kernels,omitempty"`   // operation to the kernel chosen
	WorldSize int               `json:"world_size,omitempty"`

	Steps         int64    `json:"steps"`
	Tokens        int64    `json:"tokens"`
	TrainedParams int64    `json:"trained_params,omitempty"`
	FinalLoss     *float64 `json:"final_loss,omitempty"`
	FinalEvalLoss *float64 `json:"final_eval_loss,omitempty"`

	// EvalLossBefore is the held-out loss before the first step, if it was measured.
	EvalLossBefore *float64 `json:"eval_loss_before,omitempty"`

	// BestStep is the step of the lowest held-out loss, of which BestEvalLoss is the value. With save.best it is what the run made.
	BestStep     int64    `json:"best_step,omitempty"`
	BestEvalLoss *float64 `json:"best_eval_loss,omitempty"`

	// WeightsDigest is Digest of the trained tensors after the last step.
	WeightsDigest string `json:"weights_digest,omitempty"`
	// ExactMatchBefore and ExactMatchAfter are the shares of held-out answers given exactly, without and with the
	// training; nil where the data has no held-out answers.
	ExactMatchBefore *float64 `json:"exact_match_before,omitempty"`
	ExactMatchAfter  *float64 `json:"exact_match_after,omitempty"`
}

// Versions says which program ran.
type Versions struct {
	Program  string `json:"program"`
	Revision string `json:"revision,omitempty"` // version control revision, "+changes" when the tree was modified
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// DataFile is one input file.
type DataFile struct {
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"`
	Rows   int64  `json:"rows,omitempty"`
	SHA256 string `json:"sha256"`
}

// ProgramVersions reads the versions from the running binary.
func ProgramVersions() Versions {
	v := Versions{Program: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Program = info.Main.Version
	}
	changed := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			changed = s.Value == "true"
		}
	}
	if changed && v.Revision != "" {
		v.Revision += "+changes"
	}
	return v
}

// Write replaces the file at path by the manifest, atomically and durably. A zero Format is written as ManifestFormat.
func (m Manifest) Write(path string) error {
	if m.Format == 0 {
		m.Format = ManifestFormat
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("manifest: %s: %w", path, err)
	}
	if err := WriteFile(path, append(data, '\n')); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}

// ReadManifest reads a manifest of this or an earlier format.
func ReadManifest(path string) (Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("longer than %d bytes", maxManifest)
	}
	var m Manifest
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && (m.Format < 1 || m.Format > ManifestFormat) {
		err = fmt.Errorf("format %d is unknown: this program reads up to %d", m.Format, ManifestFormat)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: %s: %w", path, err)
	}
	return m, nil
}

// WriteFile replaces the file at path: a crash at any point leaves the old content or the new one. The new content goes to a
// sibling, which is synced and renamed; then the directory is synced.
func WriteFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// syncDir makes a rename durable. Windows cannot sync directories and does not need to.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
