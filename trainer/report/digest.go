package report

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Named is a tensor under the name it has in a checkpoint.
type Named struct {
	Name   string
	Tensor *tensor.Tensor
}

// Digest is the SHA-256, in hex, of tensors in the order of their names (bytewise). For each tensor it covers:
//
//	u64 length of the name, the name (UTF-8)
//	u64 length of the dtype's name, the name ("f32", "bf16", ...)
//	u64 rank, then a u64 for each extent
//	u64 length of the data, the data (row-major, little-endian)
//
// with every u64 little-endian. Two tensors of one name, or a nil tensor, are an error.
func Digest(tensors []Named) (string, error) {
	sorted := slices.Clone(tensors)
	slices.SortStableFunc(sorted, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	d := NewDigester()
	for _, t := range sorted {
		if err := d.Add(t.Name, t.Tensor); err != nil {
			return "", err
		}
	}
	return d.Sum(), nil
}

// Digester computes a Digest without holding all tensors at once.
type Digester struct {
	sum   hash.Hash
	last  string
	count int
}

// NewDigester returns an empty digest.
func NewDigester() *Digester { return &Digester{sum: sha256.New()} }

// Add covers one more tensor; names must rise strictly.
func (d *Digester) Add(name string, t *tensor.Tensor) error {
	if d.count > 0 && name <= d.last {
		return fmt.Errorf("weights digest: %q follows %q: names must rise and be unique", name, d.last)
	}
	if t == nil {
		return fmt.Errorf("weights digest: %q has no tensor", name)
	}
	d.last = name
	d.count++
	d.text(name)
	d.text(t.DType().String())
	dims := t.Shape().Dims()
	d.number(len(dims))
	for _, n := range dims {
		d.number(n)
	}
	d.number(len(t.Bytes()))
	d.sum.Write(t.Bytes())
	return nil
}

// Sum is the digest of what was added so far.
func (d *Digester) Sum() string { return hex.EncodeToString(d.sum.Sum(nil)) }

func (d *Digester) text(s string) {
	d.number(len(s))
	d.sum.Write([]byte(s))
}

func (d *Digester) number(n int) {
	d.sum.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

// HashBytes is the SHA-256 of data in hex.
func HashBytes(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// HashFile is the SHA-256 of a file's content in hex, read in pieces.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("hashing %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
