package device

import "time"

// Spent is what a device has taken for work that is done once for a kind of device, and found again in a cache the next time.
type Spent struct {
	What    string        // "programs compiled"
	Count   int           // of these
	Of      int           // how many there will be, as far as it is known; Count may pass it
	Time    time.Duration // while somebody waited; work on several threads at once counts once where it is waited for together
	Longest time.Duration // of one of them, 0 if not known
	Name    string        // of that one
}

// Spender devices tell what such work has taken since they were opened.
type Spender interface {
	Spent() []Spent
}

// Keeper devices keep what such work gave, and find it again the next time.
type Keeper interface {
	// Unkept is why it will not be found, such as a folder that cannot be written, and what to do; nil as far as all was kept.
	Unkept() error
}
