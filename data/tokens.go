package data

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// blockTokens is the size of a block of the token store: large, so that a million examples are not a million allocations.
const blockTokens = 1 << 20

// SpillError says that the file which holds the tokens beyond Limits.Memory could not be written or read.
type SpillError struct {
	Path string
	Err  error
}

// Error names the file and the remedy.
func (e *SpillError) Error() string {
	return fmt.Sprintf("%s: tokens beyond the memory limit cannot be kept: %v; free disk space, or name another folder", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *SpillError) Unwrap() error { return e.Err }

// tokens is one long list of ids, written once from front to back: the first blocks in memory, those beyond the limit in a file.
// Reading is safe for concurrent use once writing has ended.
type tokens struct {
	unit   int // tokens of a block
	most   int // blocks kept in memory, at least 1
	dir    string
	blocks [][]int32
	open   []int32 // the block being filled
	total  int64

	file *os.File // nil until a block is beyond the limit
	keep bool     // the file could not be unlinked while open, so closing removes it
	once sync.Once
}

func newTokens(memory int64, dir string) *tokens {
	return &tokens{unit: blockTokens, most: int(max(memory/(4*blockTokens), 1)), dir: dir}
}

// append adds ids and returns where they begin.
func (s *tokens) append(ids []int32) (at int64, err error) {
	at = s.total
	for len(ids) > 0 {
		if s.open == nil {
			s.open = make([]int32, 0, s.unit)
		}
		n := min(len(ids), s.unit-len(s.open))
		s.open = append(s.open, ids[:n]...)
		s.total += int64(n)
		if ids = ids[n:]; len(s.open) == s.unit {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return at, nil
}

// flush puts the full block where it stays.
func (s *tokens) flush() error {
	if len(s.blocks) < s.most {
		s.blocks, s.open = append(s.blocks, s.open), nil
		return nil
	}
	if s.file == nil {
		if err := s.create(); err != nil {
			return err
		}
	}
	if _, err := s.file.Write(tensor.AsBytes(s.open)); err != nil {
		return s.failed(err)
	}
	s.open = s.open[:0]
	return nil
}

func (s *tokens) create() error {
	f, err := os.CreateTemp(s.dir, "tokens-*.tmp")
	if err != nil {
		dir := s.dir
		if dir == "" {
			dir = os.TempDir()
		}
		return &SpillError{Path: dir, Err: errors.New(cause(err))}
	}
	s.file = f
	s.keep = os.Remove(f.Name()) != nil // an unlinked file is gone when the program is, however it ends
	return nil
}

func (s *tokens) failed(err error) error {
	return &SpillError{Path: s.file.Name(), Err: errors.New(cause(err))}
}

// spilled is the number of tokens that are not in memory.
func (s *tokens) spilled() int64 {
	return s.total - int64(len(s.open)) - int64(len(s.blocks))*int64(s.unit)
}

// read copies the tokens from at on to dst.
func (s *tokens) read(at int64, dst []int32) error {
	unit, kept := int64(s.unit), int64(len(s.blocks))*int64(s.unit)
	for len(dst) > 0 && at < kept {
		n := copy(dst, s.blocks[at/unit][at%unit:])
		at, dst = at+int64(n), dst[n:]
	}
	inFile := kept + s.spilled()
	if n := min(inFile-at, int64(len(dst))); n > 0 {
		if _, err := s.file.ReadAt(tensor.AsBytes(dst[:n]), 4*(at-kept)); err != nil {
			return s.failed(err)
		}
		at, dst = at+n, dst[n:]
	}
	if len(dst) > 0 {
		copy(dst, s.open[at-inFile:])
	}
	return nil
}

// close removes the file, if there is one.
func (s *tokens) close() (err error) {
	s.once.Do(func() {
		if s.file == nil {
			return
		}
		err = s.file.Close()
		if s.keep {
			err = errors.Join(err, os.Remove(s.file.Name()))
		}
	})
	return err
}
