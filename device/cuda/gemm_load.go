package cuda

import (
	"cmp"
	"slices"
	"time"
)

// Large products draw all the power that a GPU may, and its clock falls until they take no more: what counts then is energy, which turns of half a
// millisecond don't show (an algorithm chosen by them was up to 6% slower under load than the best of its rivals, BenchmarkAlgorithms).
const (
	loadWarm   = 250 * time.Millisecond // of products before the first is timed, which the clock needs to fall
	loadRivals = 4                      // are timed under load: of ten products the best was among them each time
	loadLook   = 80 * time.Millisecond  // shared by those that are left
	loadParts  = 5                      // of the time that one gets, whose median counts: what the host or a library does meanwhile may disturb one of them
)

// choose times contenders in turn and, where the best takes trialLong or more, the first of them again under load.
func (r *trial) choose(list []contender) ([]time.Duration, error) {
	times, err := r.rounds(list)
	if err != nil {
		return nil, err
	}
	if i := fastest(times); i < 0 || times[i] < trialLong {
		return times, nil
	}
	near := finalists(times)
	if len(left(near)) < 2 {
		return near, nil
	}
	times, err = underLoad(near, r.d.blas.warmth(time.Now()), r.batches(list))
	r.d.blas.loaded(time.Now())
	return times, err
}

// warmth is how long products must run before the first is timed under load: as long as the device has been without load, loadWarm at most. The products
// of a plan are timed one after another, so only the first waits for the clock to fall.
func (b *blas) warmth(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return min(now.Sub(b.lastLoad), loadWarm)
}

// loaded notes when the last load ended.
func (b *blas) loaded(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastLoad = now
}

// left are the numbers of contenders that aren't refused, the fastest first.
func left(times []time.Duration) []int {
	var list []int
	for i, t := range times {
		if t != refused {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(i, k int) int { return cmp.Compare(times[i], times[k]) })
	return list
}

// only are the times of some contenders; the others are refused.
func only(times []time.Duration, list []int) []time.Duration {
	some := slices.Repeat([]time.Duration{refused}, len(times))
	for _, i := range list {
		some[i] = times[i]
	}
	return some
}

// finalists are the times of those that may be the fastest under load; the others are refused. They are loadRivals of those within a sixteenth of the best:
// the fastest, and the library's first suggestion.
func finalists(times []time.Duration) []time.Duration {
	list := left(times)
	near := slices.DeleteFunc(slices.Clone(list), func(i int) bool { return times[i]-times[list[0]] > times[list[0]]/16 })
	if len(near) > loadRivals {
		if slices.Index(near, 0) >= loadRivals {
			near[loadRivals-1] = 0
		}
		near = near[:loadRivals]
	}
	return only(times, near)
}

// batches returns what times n runs of a contender.
func (r *trial) batches(list []contender) func(i, n int) (time.Duration, error) {
	return func(i, n int) (time.Duration, error) { return r.batch(list[i], n) }
}

// underLoad times contenders under load, which begins with so much of the fastest. They share loadLook, the better half of them shares as much again, and so on
// until two are left, whose times are returned; the others are refused, as those that were from the start are.
func underLoad(times []time.Duration, warm time.Duration, batch func(i, n int) (time.Duration, error)) ([]time.Duration, error) {
	list := left(times)
	if len(list) < 2 {
		return times, nil
	}
	if _, err := batch(list[0], runsFor(warm, times[list[0]])); err != nil {
		return nil, err
	}
	for {
		loaded := slices.Clone(times)
		for _, i := range list {
			var err error
			if loaded[i], err = look(i, ceilDiv(runsFor(loadLook/time.Duration(len(list)), times[i]), loadParts), batch); err != nil {
				return nil, err
			}
		}
		times = only(loaded, list)
		if list = left(times); len(list) == 2 {
			return times, nil
		}
		list = list[:ceilDiv(len(list), 2)]
	}
}

// look is the median of loadParts batches of n runs of a contender.
func look(i, n int, batch func(i, n int) (time.Duration, error)) (time.Duration, error) {
	parts := make([]time.Duration, loadParts)
	for k := range parts {
		var err error
		if parts[k], err = batch(i, n); err != nil {
			return 0, err
		}
	}
	slices.Sort(parts)
	return parts[loadParts/2], nil
}

// runsFor is how many runs of one fill a time.
func runsFor(all, one time.Duration) int { return max(int(all/max(one, time.Nanosecond)), 1) }
