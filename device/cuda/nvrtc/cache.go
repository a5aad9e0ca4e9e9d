package nvrtc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// CacheVariable names the environment variable that moves all caches of compiled code from the user's cache folder.
const CacheVariable = "BYES_CACHE"

// Cache keeps compiled code in a folder. Several processes may use it at once: files are written beside and renamed, and each holds
// a checksum, so that a damaged one is compiled again. A folder that cannot be written is no error, only slow; Problem says so.
type Cache struct {
	dir   string
	limit int64
	mu    sync.Mutex
	err   error
	swept bool
}

// DefaultLimit bounds a cache: some thousand kernels.
const DefaultLimit = 512 << 20

// CacheDir is the folder for a kind of cache: $BYES_CACHE, else bitsandbyes in the user's cache folder.
func CacheDir(kind string) (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return filepath.Join(dir, kind), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for compiled code: %w; set %s", err, CacheVariable)
	}
	return filepath.Join(dir, "bitsandbyes", kind), nil
}

// NewCache is the cache of compiled kernels, of DefaultLimit bytes at most.
func NewCache() *Cache { return NewCacheOf("cubin") }

// NewCacheOf is a cache of another kind of thing that took time to find, in a folder of its own.
func NewCacheOf(kind string) *Cache {
	dir, err := CacheDir(kind)
	return &Cache{dir: dir, limit: DefaultLimit, err: err}
}

// Dir is the cache's folder.
func (c *Cache) Dir() string { return c.dir }

// Problem is why nothing can be kept, or nil.
func (c *Cache) Problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

const suffix = ".cubin"

func (c *Cache) file(key [32]byte) string {
	return filepath.Join(c.dir, hex.EncodeToString(key[:])+suffix)
}

// Get returns what was kept under a key. A file that is damaged counts as absent.
func (c *Cache) Get(key [32]byte) ([]byte, bool) {
	if c.dir == "" {
		return nil, false
	}
	name := c.file(key)
	b, err := vfs.ReadFile(vfs.OS{}, name, 1<<30)
	if err != nil || len(b) <= sha256.Size {
		return nil, false
	}
	sum := sha256.Sum256(b[sha256.Size:])
	if !bytes.Equal(sum[:], b[:sha256.Size]) {
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // the oldest are removed first; a folder of another user's keeps its times
	return b[sha256.Size:], true
}

// Put keeps an image under a key.
func (c *Cache) Put(key [32]byte, image []byte) {
	if c.dir == "" {
		return
	}
	err := os.MkdirAll(c.dir, 0o755)
	if err == nil {
		sum := sha256.Sum256(image)
		err = write(c.file(key), append(sum[:], image...))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.err = fmt.Errorf("compiled kernels are not kept: %w", err)
		return
	}
	if !c.swept {
		c.swept = true
		c.sweep()
	}
}

// write puts a file in place in one step. It need not survive a power cut: a torn file has a wrong checksum.
func write(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".writing-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// sweep removes what was used longest ago until the rest fits, and files that a killed process left half written.
func (c *Cache) sweep() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var kept []fs.FileInfo
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if strings.HasPrefix(e.Name(), ".writing-") && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(filepath.Join(c.dir, e.Name())) // the next sweep tries again
			continue
		}
		if strings.HasSuffix(e.Name(), suffix) {
			kept = append(kept, info)
			total += info.Size()
		}
	}
	slices.SortFunc(kept, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range kept {
		if total <= c.limit {
			return
		}
		if os.Remove(filepath.Join(c.dir, info.Name())) == nil {
			total -= info.Size()
		}
	}
}

// Build returns the device code of a source from the cache, or compiles and keeps it. fresh tells that it was compiled.
func (c *Cache) Build(compiler *Compiler, s Source) (image []byte, fresh bool, err error) {
	key := compiler.Key(s)
	if b, ok := c.Get(key); ok {
		return b, false, nil
	}
	image, err = compiler.Compile(s)
	if err != nil {
		return nil, false, err
	}
	c.Put(key, image)
	return image, true, nil
}

// Drop forgets what is kept for a source: code that the driver refuses to load.
func (c *Cache) Drop(compiler *Compiler, s Source) {
	if c.dir != "" {
		_ = os.Remove(c.file(compiler.Key(s))) // if it stays, the same error is reported again
	}
}
