package trainer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/builtin"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// What fingerprint reads of a file: all of a small one, else both ends, where the headers of all formats lie, and samples between.
const (
	wholeFile   = 1 << 20
	endBytes    = 64 << 10
	sampleBytes = 4 << 10
	samples     = 62
)

// weightFiles are the endings of files that decide what a model computes.
var weightFiles = []string{".safetensors", ".bin", ".gguf", ".json"}

// fingerprint is a SHA-256, in hex, of what a run starts from besides data: the files of the model and of adapter.init. It covers each
// file's name and size, small files whole, and of large ones both ends and samples between them, so that it costs no more than a
// few hundred kilobytes a file: it finds another model, a file that was replaced or cut, or another fine-tune of the same
// shapes, and does not find single weights that were changed between samples.
func fingerprint(fsys vfs.FS, cfg config.Config) (string, error) {
	sum := sha256.New()
	if name, ok := cfg.Builtin(); ok {
		dir, err := builtin.Dir(name)
		if err != nil {
			return "", err
		}
		if err := addFiles(sum, builtin.FS{}, dir); err != nil {
			return "", err
		}
	} else if err := addFiles(sum, fsys, cfg.Model); err != nil {
		return "", err
	}
	if dir := cfg.Adapter.InitDir(); dir != "" && cfg.Adapter.On() {
		if err := addFiles(sum, fsys, dir); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// addFiles hashes a file, or the files of weights and settings in a folder, in name order. path may be the name of a model in the local cache.
func addFiles(sum hash.Hash, fsys vfs.FS, path string) error {
	path, err := checkpoint.Locate(fsys, path)
	if err != nil {
		return err
	}
	info, err := fsys.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return addFile(sum, fsys, path)
	}
	entries, err := fsys.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.ToSlash(filepath.Join(path, e.Name()))
		if !slices.Contains(weightFiles, strings.ToLower(filepath.Ext(e.Name()))) {
			continue
		}
		if info, err := fsys.Stat(name); err != nil || !info.Mode().IsRegular() { // a link may lead anywhere
			continue
		}
		if err := addFile(sum, fsys, name); err != nil {
			return err
		}
	}
	return nil
}

// tokenizerHash is a SHA-256, in hex, of the tokenizer's files that fingerprint does not cover, such as tokenizer.model and merges.txt; empty
// where there are none. The chat template has a hash of its own.
func tokenizerHash(files map[string][]byte) string {
	sum, some := sha256.New(), false
	for _, name := range slices.Sorted(maps.Keys(files)) {
		ext := strings.ToLower(filepath.Ext(name))
		if ext == ".jinja" || slices.Contains(weightFiles, ext) {
			continue
		}
		some = true
		fmt.Fprintf(sum, "%q %d\n", name, len(files[name]))
		sum.Write(files[name])
	}
	if !some {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func addFile(sum hash.Hash, fsys vfs.FS, path string) (err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	size := f.Size()
	fmt.Fprintf(sum, "%q %d\n", filepath.Base(path), size)
	read := func(at, n int64) error {
		p := make([]byte, n)
		if _, err := f.ReadAt(p, at); err != nil {
			return fmt.Errorf("%s: reading %d bytes at %d: %w", path, n, at, err)
		}
		sum.Write(p)
		return nil
	}
	if size <= wholeFile {
		if size == 0 {
			return nil
		}
		return read(0, size)
	}
	if err := read(0, endBytes); err != nil {
		return err
	}
	step := (size - 2*endBytes) / samples
	for i := range int64(samples) {
		if err := read(endBytes+i*step, sampleBytes); err != nil {
			return err
		}
	}
	return read(size-endBytes, endBytes)
}
