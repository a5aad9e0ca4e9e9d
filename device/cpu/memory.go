package cpu

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// hugePage is the size of the large pages of amd64, and of arm64 with 4 KiB pages. Buffers of this size or more come straight from the
// system, so that it can use them: large operands otherwise miss the address cache, and Go's heap asks for none.
const hugePage = 2 << 20

// Buffers of poolLeast to hugePage bytes, as most weights are, are cut from chunks of Go's heap that the system is asked to hold in large
// pages too. Nothing of a chunk is used twice, and the collector frees it with its last buffer: one that lives long keeps the chunk, 512 times
// its size at most. Weights are loaded one after the other and live equally long, and what plans need for a while is one large buffer, so
// little is kept in vain; many lasting buffers with passing ones between them would be dear.
const (
	poolLeast = 16 << 10
	poolChunk = 8 << 20
)

// maxAlloc refuses sizes that can only be a mistake: 64 TiB.
const maxAlloc = 1 << 46

// buffer is memory of a device. Slices of it must not outlive it: memory from the system is unmapped when it is freed, or when the
// garbage collector finds it dropped.
type buffer struct {
	dev     *Device
	data    []byte
	release func() error // nil: memory of Go's heap
	dropped runtime.Cleanup
}

// Alloc implements device.Device.
func (d *Device) Alloc(bytes int64) (device.Buffer, error) {
	if bytes < 0 || bytes > maxAlloc {
		return nil, fmt.Errorf("cpu: cannot allocate %d bytes", bytes)
	}
	b := &buffer{dev: d}
	switch {
	case bytes < poolLeast:
		b.data = tensor.AlignedBytes(int(bytes))
	case bytes < hugePage:
		b.data = d.pooled(int(bytes))
	default:
		if err := b.mapped(bytes); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	d.held += bytes
	d.mu.Unlock()
	return b, nil
}

// pooled cuts n zeroed bytes from a chunk.
func (d *Device) pooled(n int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.chunk) < n {
		d.chunk = tensor.AlignedBytes(poolChunk)
		wantLargePages(d.chunk)
	}
	b := d.chunk[:n:n]
	d.chunk = d.chunk[min((n+63)&^63, len(d.chunk)):]
	return b
}

func (b *buffer) mapped(bytes int64) (err error) {
	defer func() {
		if r := recover(); r != nil { // makeslice: len out of range
			err = fmt.Errorf("cpu: cannot allocate %d bytes: %v", bytes, r)
		}
	}()
	if b.data, b.release, err = mapBytes(bytes); err != nil {
		return err
	}
	b.dropped = runtime.AddCleanup(b, func(release func() error) { _ = release() }, b.release)
	return nil
}

// Allocated is the number of bytes held by buffers now. What the chunks of small buffers hold beside them, free or yet to be handed out, is not
// counted.
func (d *Device) Allocated() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// Size implements device.Buffer.
func (b *buffer) Size() int64 { return int64(len(b.data)) }

// Free implements device.Buffer.
func (b *buffer) Free() error {
	b.dev.mu.Lock()
	b.dev.held -= int64(len(b.data))
	b.dev.mu.Unlock()
	release := b.release
	b.data, b.release = nil, nil
	if release == nil {
		return nil
	}
	b.dropped.Stop()
	if err := release(); err != nil {
		return fmt.Errorf("cpu: freeing memory: %w", err)
	}
	return nil
}

var errForeign = errors.New("cpu: the address belongs to another device or was freed")

// bytesAt returns n bytes at an address, capped so that a kernel cannot grow past them.
func bytesAt(p device.Ptr, n int64) ([]byte, error) {
	b, ok := p.Buf.(*buffer)
	if !ok || (b.data == nil && n > 0) {
		return nil, errForeign
	}
	if p.Off < 0 || n < 0 || n > int64(len(b.data))-p.Off {
		return nil, fmt.Errorf("cpu: %d bytes at offset %d are outside a buffer of %d", n, p.Off, len(b.data))
	}
	return b.data[p.Off : p.Off+n : p.Off+n], nil
}
