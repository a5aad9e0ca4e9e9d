package tokenizer

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// EncodeBatch encodes texts on as many goroutines as Go may run at once, and returns their ids in order. The ids are those of
// EncodeWith, however many goroutines there are. The error is that of the first text that has one, with its index.
func EncodeBatch(tok Tokenizer, texts []string, opts EncodeOptions) ([][]int32, error) {
	out := make([][]int32, len(texts))
	errs := make([]error, len(texts))
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(texts) {
				return
			}
			out[i], errs[i] = tok.EncodeWith(texts[i], opts)
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(texts)) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
	}
	return out, nil
}
