package device

import (
	"maps"
	"testing"
)

// Apart gives a test a registry of its own, with the backends that are registered now. Else a test would meet those of the tests before
// it, and its own names taken when it is run twice.
func Apart(t *testing.T) {
	registry.Lock()
	defer registry.Unlock()
	kept := registry.m
	registry.m = maps.Clone(kept)
	t.Cleanup(func() {
		registry.Lock()
		defer registry.Unlock()
		registry.m = kept
	})
}
