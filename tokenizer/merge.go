package tokenizer

import "math"

// noMerge marks a pair of symbols that no rule joins. A rule is packed as rank<<32 | id of the joined token.
const noMerge = math.MaxUint64

// scanLimit is the longest word (in symbols) for which looking at every pair each time beats keeping a heap.
const scanLimit = 40

// ranker returns the packed rule for a pair of adjacent symbols, or noMerge.
type ranker interface {
	rule(a, b int32) uint64
}

// merger joins the symbols of words, lowest rank first and leftmost first among equals. It keeps its arrays between words.
type merger struct {
	rules      []uint64
	prev, next []int32
	heap       []uint64
}

// merge joins ids in place and returns the shorter slice.
func (m *merger) merge(ids []int32, r ranker) []int32 {
	if len(ids) < 2 {
		return ids
	}
	m.rules = m.rules[:0]
	joins := false
	for i := range len(ids) - 1 {
		rule := r.rule(ids[i], ids[i+1])
		joins = joins || rule != noMerge
		m.rules = append(m.rules, rule)
	}
	switch {
	case !joins:
		return ids
	case len(ids) <= scanLimit:
		return m.scan(ids, r)
	default:
		return m.queue(ids, r)
	}
}

// scan searches all rules for each join: quadratic, with no bookkeeping.
func (m *merger) scan(ids []int32, r ranker) []int32 {
	rules := m.rules
	for {
		best, at := uint64(noMerge), -1
		for i, rule := range rules {
			if rule>>32 < best>>32 {
				best, at = rule, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = int32(uint32(best))
		ids = append(ids[:at+1], ids[at+2:]...)
		rules = append(rules[:at], rules[at+1:]...)
		if at > 0 {
			rules[at-1] = r.rule(ids[at-1], ids[at])
		}
		if at < len(rules) {
			rules[at] = r.rule(ids[at], ids[at+1])
		}
	}
}

// queue keeps candidate joins in a heap keyed by rank then place. An entry is stale when its place now has another rule.
func (m *merger) queue(ids []int32, r ranker) []int32 {
	m.link(len(ids))
	for i, rule := range m.rules {
		if rule != noMerge {
			m.heap = append(m.heap, rule>>32<<32|uint64(i))
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		siftDown(m.heap, i)
	}
	for len(m.heap) > 0 {
		key := m.pop()
		at := int32(uint32(key))
		rule := m.rules[at]
		if rule == noMerge || rule>>32 != key>>32 {
			continue
		}
		gone := m.next[at]
		after := m.next[gone]
		ids[at] = int32(uint32(rule))
		m.rules[gone] = noMerge
		m.next[gone] = -1
		m.next[at] = after
		if after < int32(len(ids)) {
			m.prev[after] = at
		}
		m.renew(ids, at, r)
		if before := m.prev[at]; before >= 0 {
			m.renew(ids, before, r)
		}
	}
	out := ids[:0]
	for i := int32(0); i < int32(len(m.next)); i = m.next[i] {
		out = append(out, ids[i])
	}
	return out
}

// link sets up the doubly linked list of n places; n marks the end.
func (m *merger) link(n int) {
	m.prev, m.next, m.heap = m.prev[:0], m.next[:0], m.heap[:0]
	for i := range n {
		m.prev = append(m.prev, int32(i)-1)
		m.next = append(m.next, int32(i)+1)
	}
	m.rules = append(m.rules, noMerge)
}

// renew looks up the rule of a place anew and queues it.
func (m *merger) renew(ids []int32, at int32, r ranker) {
	m.rules[at] = noMerge
	after := m.next[at]
	if int(after) >= len(ids) {
		return
	}
	if rule := r.rule(ids[at], ids[after]); rule != noMerge {
		m.rules[at] = rule
		m.heap = append(m.heap, rule>>32<<32|uint64(at))
		siftUp(m.heap)
	}
}

func (m *merger) pop() uint64 {
	top := m.heap[0]
	last := len(m.heap) - 1
	m.heap[0] = m.heap[last]
	m.heap = m.heap[:last]
	if last > 0 {
		siftDown(m.heap, 0)
	}
	return top
}

func siftDown(h []uint64, i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if h[i] <= h[child] {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

func siftUp(h []uint64) {
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up] <= h[i] {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}
