package plan

import "sort"

// align is the boundary of every interval in the arena, wide enough for vector loads and for CUDA's coalescing.
const align = 256

func alignUp(n int64) int64 { return (n + align - 1) &^ (align - 1) }

// packArena gives every interval of a kind of memory an offset such that intervals live at the same time do not overlap, and returns the
// size of all. Two orders are tried, and the tighter packing kept: by birth into the best-fitting hole, and largest first
// into the lowest gap.
func packArena(roots []root, kind rootKind) int64 {
	var live []int
	for i := range roots {
		if r := &roots[i]; r.kind == kind && r.joined == i {
			live = append(live, i)
		}
	}
	byBirth := packByBirth(roots, live)
	if len(live) > maxBySize {
		return byBirth.apply(roots)
	}
	if bySize := packBySize(roots, live); bySize.size < byBirth.size {
		return bySize.apply(roots)
	}
	return byBirth.apply(roots)
}

// maxBySize bounds the quadratic packing.
const maxBySize = 8000

type packing struct {
	offsets map[int]int64
	size    int64
}

func (p packing) apply(roots []root) int64 {
	for i, off := range p.offsets {
		roots[i].offset = off
	}
	return p.size
}

// hole is a free range of the arena.
type hole struct{ off, size int64 }

func packByBirth(roots []root, live []int) packing {
	order := append([]int(nil), live...)
	sort.SliceStable(order, func(a, b int) bool { return roots[order[a]].birth < roots[order[b]].birth })
	byEnd := append([]int(nil), live...)
	sort.SliceStable(byEnd, func(a, b int) bool { return roots[byEnd[a]].end < roots[byEnd[b]].end })
	p := packing{offsets: make(map[int]int64, len(live))}
	var free []hole
	next := 0
	for _, i := range order {
		for next < len(byEnd) && roots[byEnd[next]].end < roots[i].birth {
			j := byEnd[next]
			free = release(free, hole{p.offsets[j], alignUp(roots[j].bytes)})
			next++
		}
		p.offsets[i], free = p.take(free, alignUp(roots[i].bytes))
	}
	return p
}

// take returns the offset of the smallest hole that fits, growing the arena if none does.
func (p *packing) take(free []hole, size int64) (int64, []hole) {
	best := -1
	for j, h := range free {
		if h.size >= size && (best < 0 || h.size < free[best].size) {
			best = j
		}
	}
	if best < 0 {
		if n := len(free); n > 0 && free[n-1].off+free[n-1].size == p.size { // grow the hole at the end
			off := free[n-1].off
			p.size = off + size
			return off, free[:n-1]
		}
		off := p.size
		p.size += size
		return off, free
	}
	h := &free[best]
	off := h.off
	h.off, h.size = h.off+size, h.size-size
	if h.size == 0 {
		free = append(free[:best], free[best+1:]...)
	}
	return off, free
}

// release inserts a hole in address order and merges it with its neighbours.
func release(free []hole, h hole) []hole {
	if h.size == 0 {
		return free
	}
	i := sort.Search(len(free), func(i int) bool { return free[i].off > h.off })
	free = append(free, hole{})
	copy(free[i+1:], free[i:])
	free[i] = h
	if i+1 < len(free) && free[i].off+free[i].size == free[i+1].off {
		free[i].size += free[i+1].size
		free = append(free[:i+1], free[i+2:]...)
	}
	if i > 0 && free[i-1].off+free[i-1].size == free[i].off {
		free[i-1].size += free[i].size
		free = append(free[:i], free[i+1:]...)
	}
	return free
}

func packBySize(roots []root, live []int) packing {
	order := append([]int(nil), live...)
	sort.SliceStable(order, func(a, b int) bool { return roots[order[a]].bytes > roots[order[b]].bytes })
	p := packing{offsets: make(map[int]int64, len(live))}
	var done []int // placed so far, by offset
	for _, i := range order {
		size := alignUp(roots[i].bytes)
		at := int64(0)
		for _, j := range done {
			if roots[j].end < roots[i].birth || roots[i].end < roots[j].birth {
				continue
			}
			if p.offsets[j] >= at+size {
				break
			}
			at = max(at, p.offsets[j]+alignUp(roots[j].bytes))
		}
		p.offsets[i] = at
		p.size = max(p.size, at+size)
		k := sort.Search(len(done), func(k int) bool { return p.offsets[done[k]] > at })
		done = append(done, 0)
		copy(done[k+1:], done[k:])
		done[k] = i
	}
	return p
}
