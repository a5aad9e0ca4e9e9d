//go:build !linux

package pool

// semaphore counts tokens.
type semaphore struct{ tokens chan struct{} }

// init makes room for the most tokens that there can be.
func (s *semaphore) init(most int) { s.tokens = make(chan struct{}, most) }

// release adds a token.
func (s *semaphore) release() { s.tokens <- struct{}{} }

// acquire waits for a token and takes it.
func (s *semaphore) acquire() { <-s.tokens }
