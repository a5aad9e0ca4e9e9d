package gemm

import "unsafe"

// Operands come from memory or the last cache, a strip of short rows at a time, which the processor's own prefetchers do not foresee. While
// tiles are summed they ask for what will be packed next, a little in each sixteenth of a sum: bursts would hold up the operands.

const (
	aheadLine  = 128            // bytes that a tile asks for at once
	aheadTimes = 16             // times
	aheadSpan  = 16 * aheadLine // bytes of a row that is taken along its length
)

// region is rows of bytes in memory.
type region struct {
	base               unsafe.Pointer
	stride, rows, each int // bytes from row to row, their number, bytes of each
}

// fetch goes through a region tile by tile: along rows, or where they are short down the rows.
type fetch struct {
	region
	row, at int // what is next
}

// some is what the next tile asks for: an address and a step from each 128 bytes to the next. With nothing left it is a line in use.
func (f *fetch) some(used *float32) (next uintptr, step int) {
	if f.row >= f.rows {
		return uintptr(unsafe.Pointer(used)), 0
	}
	next = uintptr(f.base) + uintptr(f.row*f.stride+f.at)
	span, rows := aheadLine, aheadTimes
	step = f.stride
	if f.each >= aheadSpan {
		step, span, rows = aheadLine, aheadSpan, 1
	}
	if f.at += span; f.at >= f.each {
		f.row, f.at = f.row+rows, 0
	}
	return next, step
}

// nextStream is what the worker of a task packs after steps up to k of the phase: its next steps, or another task's first.
func (j *blocks) nextStream(s *spot, unit, k int) fetch {
	if j.streamB && (j.directB || j.nearB) || !j.streamB && j.directA {
		return fetch{}
	}
	if k >= s.kp {
		k, unit = 0, unit+j.threads/j.teams
	}
	lane, end := j.n0, j.n0+j.nb
	if !j.streamB {
		lane, end = j.m0, j.m0+j.mb
	}
	lane += unit * j.unit
	if lane >= end {
		return fetch{}
	}
	return fetch{region: j.in.raw(j.streamB, lane, min(j.unit, end-lane), s.k0+k, min(j.kc, s.kp-k))}
}
