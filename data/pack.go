package data

import "math/bits"

// rowPlan is an epoch's rows: row i holds the entries order[start[i]:start[i+1]].
type rowPlan struct {
	order []int32 // example IDs
	start []int32
}

func (p *rowPlan) len() int { return len(p.start) - 1 }

func (p *rowPlan) row(i int) []int32 { return p.order[p.start[i]:p.start[i+1]] }

// single makes one row of every entry.
func single(order []int32) *rowPlan {
	p := &rowPlan{order: order, start: make([]int32, len(order)+1)}
	for i := range p.start {
		p.start[i] = int32(i)
	}
	return p
}

// bestFit puts the entries, in order, each into the open row whose space is the smallest that holds it (the row opened or filled
// last among equals), or into a new row. Rows are numbered as they are opened; no entry is longer than size.
func bestFit(order []int32, length func(id int32) int, size int) *rowPlan {
	const none = int32(-1)
	var (
		rowOf = make([]int32, len(order))
		next  []int32                        // a row's successor in the stack of rows with equal space
		head  = make([]int32, size+1)        // by space left
		avail = make([]uint64, size/64+1)    // which spaces have a row
		count []int32                        // entries in a row
		push  = func(row int32, space int) { // rows without space are closed
			if space > 0 {
				next[row], head[space] = head[space], row
				avail[space/64] |= 1 << (space % 64)
			}
		}
	)
	for i := range head {
		head[i] = none
	}
	for i, id := range order {
		n := length(id)
		space := firstSet(avail, n)
		var row int32
		if space < 0 {
			row, space = int32(len(next)), size
			next, count = append(next, none), append(count, 0)
		} else {
			row = head[space]
			if head[space] = next[row]; head[space] == none {
				avail[space/64] &^= 1 << (space % 64)
			}
		}
		rowOf[i] = row
		count[row]++
		push(row, space-n)
	}
	return gather(order, rowOf, count)
}

// gather sorts the entries by row, keeping their order within a row.
func gather(order, rowOf, count []int32) *rowPlan {
	p := &rowPlan{order: make([]int32, len(order)), start: make([]int32, len(count)+1)}
	for i, c := range count {
		p.start[i+1] = p.start[i] + c
		count[i] = p.start[i]
	}
	for i, id := range order {
		p.order[count[rowOf[i]]] = id
		count[rowOf[i]]++
	}
	return p
}

// firstSet returns the lowest set bit at or above from, -1 if there is none.
func firstSet(words []uint64, from int) int {
	w := from / 64
	if w >= len(words) {
		return -1
	}
	for v := words[w] &^ (1<<(from%64) - 1); ; v = words[w] {
		if v != 0 {
			return w*64 + bits.TrailingZeros64(v)
		}
		if w++; w == len(words) {
			return -1
		}
	}
}
