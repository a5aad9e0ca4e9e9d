//go:build !linux

package probe

import "github.com/bitsandbyes/bitsandbyes/tensor"

func reserve(n int64) (b []byte, free func(), err error) {
	return tensor.AlignedBytes(int(n)), func() {}, nil
}
