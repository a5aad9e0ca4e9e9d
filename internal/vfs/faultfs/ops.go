package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

var (
	_ vfs.FS         = (*FS)(nil)
	_ vfs.FreeSpacer = (*FS)(nil)
)

// Open implements vfs.FS.
func (f *FS) Open(name string) (vfs.Reader, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	return &file{fs: f, n: n, name: name, size: int64(len(n.data))}, nil
}

// Create implements vfs.FS.
func (f *FS) Create(name string) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin("create", name); err != nil {
		return nil, err
	}
	parent, base, err := f.parent("create", name)
	if err != nil {
		return nil, err
	}
	if parent.kids[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n := &node{}
	parent.kids[base] = n
	return &file{fs: f, n: n, name: name, writable: true}, nil
}

// Rename implements vfs.FS.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin("rename", from); err != nil {
		return err
	}
	n, err := f.find("rename", from)
	if err != nil {
		return err
	}
	p, pbase, err := f.parent("rename", from)
	if err != nil {
		return err
	}
	q, qbase, err := f.parent("rename", to)
	if err != nil {
		return err
	}
	if old := q.kids[qbase]; old != nil && old != n && (old.dir || n.dir) {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	delete(p.kids, pbase)
	q.kids[qbase] = n
	return nil
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin("remove", name); err != nil {
		return err
	}
	n, err := f.find("remove", name)
	if err != nil {
		return err
	}
	if len(n.kids) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: errors.New("folder not empty")}
	}
	return f.unlink(name)
}

// RemoveAll implements vfs.FS. Every single removal is an operation, so a fault may leave a folder half removed.
func (f *FS) RemoveAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removeAll(name)
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin("mkdir", name); err != nil {
		return err
	}
	n := f.root
	for _, part := range split(name) {
		kid := n.kids[part]
		if kid == nil {
			kid = newDir()
			n.kids[part] = kid
		}
		if !kid.dir {
			return &fs.PathError{Op: "mkdir", Path: name, Err: errors.New("not a folder")}
		}
		n = kid
	}
	return nil
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a folder")}
	}
	var out []fs.DirEntry
	for _, kid := range slices.Sorted(maps.Keys(n.kids)) {
		out = append(out, n.kids[kid].info(kid))
	}
	return out, nil
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find("stat", name)
	if err != nil {
		return nil, err
	}
	return n.info(filepath.Base(name)), nil
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.begin("syncdir", name); err != nil {
		return err
	}
	n, err := f.find("syncdir", name)
	if err != nil {
		return err
	}
	n.durableKids = maps.Clone(n.kids)
	return nil
}

func (f *FS) removeAll(name string) error {
	n, err := f.find("remove", name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, kid := range slices.Sorted(maps.Keys(n.kids)) {
		if err := f.removeAll(filepath.Join(name, kid)); err != nil {
			return err
		}
	}
	if _, err := f.begin("remove", name); err != nil {
		return err
	}
	return f.unlink(name)
}

func (f *FS) unlink(name string) error {
	p, base, err := f.parent("remove", name)
	if err != nil {
		return err
	}
	delete(p.kids, base)
	return nil
}

func (f *FS) find(op, name string) (*node, error) {
	if f.crashed {
		return nil, ErrCrashed
	}
	n := f.root
	for _, part := range split(name) {
		if n = n.kids[part]; n == nil {
			return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

func (f *FS) parent(op, name string) (*node, string, error) {
	n, err := f.find(op, filepath.Dir(filepath.Clean(name)))
	if err != nil {
		return nil, "", err
	}
	if !n.dir {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: errors.New("not a folder")}
	}
	return n, filepath.Base(name), nil
}

func split(name string) []string {
	p := filepath.ToSlash(filepath.Clean(name))
	if p == "." {
		return nil
	}
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// file is an open file; it keeps its node when the name is renamed or removed, as on unix.
type file struct {
	fs       *FS
	n        *node
	name     string
	size     int64
	writable bool
	closed   bool
}

func (h *file) Size() int64 { return h.size }

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.check("read"); err != nil {
		return 0, err
	}
	if off < 0 || off >= int64(len(h.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) Write(p []byte) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.check("write"); err != nil {
		return 0, err
	}
	kind, err := h.fs.begin("write", h.name)
	n := len(p)
	switch kind {
	case Crash, ShortWrite:
		n /= 2
	case NoSpace, IOError:
		n = 0
	}
	if kind == ShortWrite {
		err = &fs.PathError{Op: "write", Path: h.name, Err: io.ErrShortWrite}
	}
	h.n.data = append(h.n.data, p[:n]...)
	return n, err
}

func (h *file) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.check("sync"); err != nil {
		return err
	}
	if kind, err := h.fs.begin("sync", h.name); err != nil {
		h.n.lost = kind != Crash
		return err
	}
	if !h.n.lost {
		h.n.durable = slices.Clone(h.n.data)
	}
	return nil
}

func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return &fs.PathError{Op: "close", Path: h.name, Err: fs.ErrClosed}
	}
	h.closed = true
	if !h.writable {
		return nil
	}
	_, err := h.fs.begin("close", h.name)
	return err
}

func (h *file) check(op string) error {
	if h.fs.crashed {
		return ErrCrashed
	}
	if h.closed {
		return &fs.PathError{Op: op, Path: h.name, Err: fs.ErrClosed}
	}
	return nil
}
