//go:build !linux

package cpu

import "github.com/bitsandbyes/bitsandbyes/tensor"

// mapBytes takes memory from Go's heap: only Linux has large pages on request.
func mapBytes(n int64) ([]byte, func() error, error) {
	return tensor.AlignedBytes(int(n)), func() error { return nil }, nil
}

func wantLargePages([]byte) {}
