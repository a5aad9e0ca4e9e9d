package cpu

import "sync"

type pool interface {
	Run(n int, f func(task int)) error
	Close()
}

func newPool(int) pool { return goPool{} }

type goPool struct{}

func (goPool) Close() {}
func (goPool) Run(n int, f func(int)) error {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
	return nil
}
