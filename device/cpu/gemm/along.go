package gemm

// Operands that lie in rows are read by tiles anyway, so some tiles pack them on the way for the others: the first of each strip of B packs B, and
// two tiles of each strip of A that is resident pack A.

// alongPacker is an inner whose tiles may pack operands from where they lie while they multiply them. Such tiles have all their rows and columns.
type alongPacker interface {
	packsAlong(kb int) bool
	// tilePack is tile for packed A, that reads B from column n and step k on and writes a strip to.
	tilePack(i, n, k, kb int, a, to *float32, add bool, next uintptr, step int)
	turnsAlong(kb int) bool
	// tileTurn is tile for packed B, that reads A from row i and step k on and writes its even or odd rows to a strip.
	tileTurn(odd, i, n, k, kb int, to, b *float32, add bool, next uintptr, step int)
}

// packsAlong says that the first tile of each whole strip of B packs it for the others, of so many rows.
func (j *blocks) packsAlong(rows, kb int) bool {
	p, ok := j.in.(alongPacker)
	return ok && !j.directA && j.extra == 0 && j.rows(rows) == j.mr && p.packsAlong(kb)
}

// turns says that the tiles of the first two strips of B pack the resident A.
func (j *blocks) turns(rows, cols, kb int) bool {
	p, ok := j.in.(alongPacker)
	return ok && j.streamB && !j.directB && j.extra == 0 && cols >= 2*j.nr && j.rows(rows) == j.mr && p.turnsAlong(kb)
}

// turnTiles multiplies rows [i0,i1) with two strips of B from column n on and packs the rows. The first strip of A is packed before, as its tiles
// may pack B; strips that are not of full height are, too.
func (j *blocks) turnTiles(i0, i1, n, k, kb int, a, b []float32, add bool, ahead *fetch, temp []float32) {
	p := j.in.(alongPacker)
	along := j.packsAlong(i1-i0, kb)
	for i := i0; i < i1; {
		rows := j.rows(i1 - i)
		strip := a[(i-i0)*kb:]
		turn := i > i0 && rows == j.mr
		if !turn {
			j.in.packA(strip[:rows*kb], i, rows, k, kb, temp)
		}
		for c := range 2 {
			n, pb := n+c*j.nr, &b[c*j.nr*kb]
			if turn && c == 0 { // asks for the rows below
				below := j.in.raw(false, min(i+rows, i1-1), 1, k, kb)
				p.tileTurn(c, i, n, k, kb, &strip[0], pb, add, uintptr(below.base), below.stride)
				continue
			}
			next, step := ahead.some(pb)
			switch {
			case turn:
				p.tileTurn(c, i, n, k, kb, &strip[0], pb, add, next, step)
			case along && i == i0:
				p.tilePack(i, n, k, kb, &strip[0], pb, add, next, step)
			default:
				j.in.tile(i, n, rows, j.nr, kb, panel{&strip[0], 1, rows}, panel{at: pb, k: j.nr}, add, next, step)
			}
		}
		i += rows
	}
}
