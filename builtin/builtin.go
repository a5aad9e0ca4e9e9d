// Package builtin holds the model that the program brings along: a tiny Llama with its tokenizer, trained by this project on text
// of its own grammar (package builtin/corpus), so that a fresh clone can fine-tune something real without any download.
package builtin

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

//go:embed all:tiny
var files embed.FS

// Prefix begins the name of a built-in model in a configuration: "builtin:tiny".
const Prefix = "builtin:"

// Dir returns the folder of a built-in model inside FS.
func Dir(name string) (string, error) {
	if info, err := fs.Stat(files, name); err != nil || !info.IsDir() {
		return "", fmt.Errorf("there is no built-in model %q; there is: %s", name, strings.Join(Names(), ", "))
	}
	return name, nil
}

// Names lists the built-in models.
func Names() []string {
	var out []string
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// FS is the embedded files as a read-only file system.
type FS struct{}

var _ vfs.FS = FS{}

// Open implements vfs.FS.
func (FS) Open(name string) (vfs.Reader, error) {
	data, err := files.ReadFile(path.Clean(strings.ReplaceAll(name, "\\", "/")))
	if err != nil {
		return nil, err
	}
	return reader{bytes.NewReader(data)}, nil
}

type reader struct{ *bytes.Reader }

// Close implements vfs.Reader.
func (reader) Close() error { return nil }

// ReadDir implements vfs.FS.
func (FS) ReadDir(name string) ([]fs.DirEntry, error) { return files.ReadDir(path.Clean(name)) }

// Stat implements vfs.FS.
func (FS) Stat(name string) (fs.FileInfo, error) { return fs.Stat(files, path.Clean(name)) }

// Create implements vfs.FS.
func (FS) Create(name string) (vfs.File, error) { return nil, readOnly("create", name) }

// Rename implements vfs.FS.
func (FS) Rename(from, _ string) error { return readOnly("rename", from) }

// Remove implements vfs.FS.
func (FS) Remove(name string) error { return readOnly("remove", name) }

// RemoveAll implements vfs.FS.
func (FS) RemoveAll(name string) error { return readOnly("remove", name) }

// MkdirAll implements vfs.FS.
func (FS) MkdirAll(name string) error { return readOnly("mkdir", name) }

// SyncDir implements vfs.FS.
func (FS) SyncDir(name string) error { return readOnly("sync", name) }

func readOnly(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission}
}
