package data

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// FileInfo identifies an input file for a manifest.
type FileInfo struct {
	Path   string  `json:"path"`
	Bytes  int64   `json:"bytes"` // as stored, compressed or not
	SHA256 string  `json:"sha256"`
	Weight float64 `json:"weight"`
	Format string  `json:"format"`
	Why    string  `json:"why"` // how the format was chosen
	Rows   int     `json:"rows"`
}

// expand resolves globs, in the order given and by name within a pattern.
func expand(files []File) ([]File, error) {
	if len(files) == 0 {
		return nil, fmt.Errorf("data: no input files; set data.path")
	}
	var out []File
	for _, f := range files {
		w := f.Weight
		if w == 0 {
			w = 1
		}
		if !(w > 0 && w <= maxWeight) {
			return nil, fmt.Errorf("data: weight %v of %s: must be above 0 and at most %d", f.Weight, f.Path, maxWeight)
		}
		paths := []string{f.Path}
		if _, err := os.Stat(f.Path); err != nil && strings.ContainsAny(f.Path, "*?[") {
			var gerr error
			if paths, gerr = filepath.Glob(f.Path); gerr != nil {
				return nil, fmt.Errorf("data: pattern %q: %w", f.Path, gerr)
			}
			if len(paths) == 0 {
				return nil, rowErr(f.Path, 0, "no file matches this pattern")
			}
		}
		for _, p := range paths {
			out = append(out, File{Path: p, Weight: w})
		}
	}
	return out, nil
}

// source is an open input: its decoded bytes, and the digest of the stored ones.
type source struct {
	io.Reader
	raw  io.Reader
	file *os.File
	sum  hash.Hash
	size int64
	zst  *zstd.Decoder // of a .zst file, to be closed
}

func openSource(path string, lim Limits) (*source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &RowError{File: path, Reason: "cannot be opened: " + cause(err), Err: err}
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file; name a file or a pattern such as %s", filepath.Join(path, "*.jsonl"))
	}
	if err != nil {
		_ = f.Close() // only read from
		return nil, &RowError{File: path, Reason: err.Error(), Err: err}
	}
	s := &source{file: f, sum: sha256.New(), size: info.Size()}
	s.raw = io.TeeReader(f, s.sum)
	s.Reader = s.raw
	if err := s.decompress(path, lim); err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

// decompress unpacks what the file's name says is packed.
func (s *source) decompress(path string, lim Limits) error {
	var r io.Reader
	var err error
	kind := strings.ToLower(filepath.Ext(path))
	switch kind {
	case ".gz":
		r, err = gzip.NewReader(s.raw)
	case ".zst":
		var z *zstd.Decoder
		z, err = zstd.NewReader(s.raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true))
		if z != nil {
			s.zst = z
			r = z
		}
	default:
		return nil
	}
	if err != nil {
		return &RowError{File: path, Reason: "not a " + packed[kind] + " file: " + err.Error(), Err: err}
	}
	s.Reader = &capped{r: r, left: expandedLimit(s.size, lim.ExpandRatio), ratio: lim.ExpandRatio}
	return nil
}

// packed are the compressed files that are read, by ending.
var packed = map[string]string{".gz": "gzip", ".zst": "zstd"}

// zstdWindow is the most that a .zst file may ask the decoder to hold: what `zstd --long` without a number makes.
const zstdWindow = 128 << 20

// unpackedName is the name of what a file holds, in lower case.
func unpackedName(path string) string {
	name := strings.ToLower(path)
	if ext := filepath.Ext(name); packed[ext] != "" {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

func cause(err error) string {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func expandedLimit(size int64, ratio int) int64 {
	if size > math.MaxInt64/int64(ratio) {
		return math.MaxInt64
	}
	return max(gzipFree, size*int64(ratio))
}

// finish reads what the parser left (nothing but a compressed file's trailer) so that the digest covers the whole file.
func (s *source) finish() (string, error) {
	if _, err := io.Copy(io.Discard, s.raw); err != nil {
		return "", err
	}
	return hex.EncodeToString(s.sum.Sum(nil)), nil
}

func (s *source) close() {
	if s.zst != nil {
		s.zst.Close()
	}
	_ = s.file.Close() // only read from
}

// capped refuses to expand a compressed file without bound.
type capped struct {
	r     io.Reader
	left  int64
	ratio int
}

func (c *capped) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if c.left < 0 {
		return 0, fmt.Errorf("expands to more than %d times its size; decompress it first if it is to be trusted", c.ratio)
	}
	return n, err
}
