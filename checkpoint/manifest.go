package checkpoint

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// The files of a checkpoint folder, and the format of its manifest.
const (
	manifestFile    = "manifest.json"
	tensorsFile     = "tensors.safetensors"
	stateFile       = "state.json"
	manifestFormat  = "bits-and-byes checkpoint"
	manifestVersion = 1
	maxManifest     = 1 << 20
	maxState        = 256 << 20
	maxFiles        = 1000
)

// manifest lists the files of a checkpoint. It is written last.
type manifest struct {
	Format  string         `json:"format"`
	Version int64          `json:"version"`
	Step    int64          `json:"step"`
	Files   []manifestItem `json:"files"`
}

type manifestItem struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (m *manifest) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// parseManifest reads and checks a manifest; keys that it does not know are passed over.
func parseManifest(b []byte) (*manifest, error) {
	m := &manifest{Step: -1}
	s := &scanner{b: b}
	err := uniqueObject(s, func(key string) (err error) {
		switch key {
		case "format":
			s.space()
			m.Format, err = s.str(256)
		case "version":
			m.Version, err = s.uint()
		case "step":
			m.Step, err = s.uint()
		case "files":
			err = s.array(func() error { return m.file(s) })
		default:
			err = s.skip(0)
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	switch {
	case m.Format != manifestFormat:
		return nil, fmt.Errorf("its format is %s, not %q", quoted(m.Format), manifestFormat)
	case m.Version != manifestVersion:
		return nil, fmt.Errorf("it has format version %d, this program reads %d: use the version that wrote it", m.Version, manifestVersion)
	case m.Step < 0:
		return nil, errors.New("it has no step")
	case !m.has(tensorsFile) || !m.has(stateFile):
		return nil, fmt.Errorf("it does not list %s and %s", tensorsFile, stateFile)
	}
	return m, nil
}

func (m *manifest) file(s *scanner) error {
	f := manifestItem{Size: -1}
	err := uniqueObject(s, func(key string) (err error) {
		switch key {
		case "name":
			s.space()
			f.Name, err = s.str(255)
		case "size":
			f.Size, err = s.uint()
		case "sha256":
			s.space()
			f.SHA256, err = s.str(64)
		default:
			err = s.skip(0)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := plainName(f.Name); err != nil {
		return s.errorf("%v", err)
	}
	switch _, err := hex.DecodeString(f.SHA256); {
	case err != nil || len(f.SHA256) != 64:
		return s.errorf("file %s has no SHA-256", quoted(f.Name))
	case f.Size < 0:
		return s.errorf("file %s has no size", quoted(f.Name))
	case m.has(f.Name):
		return s.errorf("file %s is listed twice", quoted(f.Name))
	case len(m.Files) == maxFiles:
		return s.errorf("more than %d files", maxFiles)
	}
	m.Files = append(m.Files, f)
	return nil
}

func (m *manifest) has(name string) bool {
	for i := range m.Files {
		if m.Files[i].Name == name {
			return true
		}
	}
	return false
}

// uniqueObject is scanner.object with repeated keys refused; for small objects.
func uniqueObject(s *scanner, f func(key string) error) error {
	var seen []string
	return s.object(256, func(key string) error {
		for _, k := range seen {
			if k == key {
				return s.errorf("key %s occurs twice", quoted(key))
			}
		}
		if len(seen) == maxFiles {
			return s.errorf("more than %d keys", maxFiles)
		}
		seen = append(seen, key)
		return f(key)
	})
}

// readManifest reads the manifest of a checkpoint folder.
func readManifest(fsys vfs.FS, dir string) (*manifest, error) {
	path := filepath.Join(dir, manifestFile)
	raw, err := readSmall(fsys, path, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, &FormatError{File: path, Reason: err.Error(), Remedy: "the checkpoint cannot be used"}
	}
	return m, nil
}

// checkSizes compares the files of a folder with its manifest by size alone.
func (m *manifest) checkSizes(fsys vfs.FS, dir string) error {
	for _, f := range m.Files {
		path := filepath.Join(dir, f.Name)
		info, err := fsys.Stat(path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return &FormatError{File: path, Reason: fmt.Sprintf("it has %d bytes, the manifest says %d", info.Size(), f.Size), Remedy: "the checkpoint cannot be used"}
		}
	}
	return nil
}

// checkDigests reads every file and compares its SHA-256.
func (m *manifest) checkDigests(fsys vfs.FS, dir string) error {
	for _, f := range m.Files {
		path := filepath.Join(dir, f.Name)
		got, err := digest(fsys, path)
		if err != nil {
			return err
		}
		if got != f.SHA256 {
			return &FormatError{File: path, Reason: "its SHA-256 is not the manifest's: it was changed or damaged", Remedy: "the checkpoint cannot be used"}
		}
	}
	return nil
}

func digest(fsys vfs.FS, path string) (sum string, err error) {
	r, err := fsys.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, r.Size()), make([]byte, min(1<<20, r.Size()+1))); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeHashed writes a new file, syncs it, and returns its manifest item.
func writeHashed(fsys vfs.FS, path string, fill func(io.Writer) error) (manifestItem, error) {
	item := manifestItem{Name: filepath.Base(path)}
	f, err := fsys.Create(path)
	if err != nil {
		return item, err
	}
	h, n := sha256.New(), &counter{}
	buf := bufio.NewWriterSize(f, 1<<16)
	err = fill(io.MultiWriter(buf, h, n))
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	item.Size, item.SHA256 = n.n, hex.EncodeToString(h.Sum(nil))
	return item, err
}

func writeHashedBytes(fsys vfs.FS, path string, data []byte) (manifestItem, error) {
	return writeHashed(fsys, path, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(data))
		return err
	})
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
