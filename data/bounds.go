package data

// paddedShare is one over the share of micro-batches that may have longer padding than documents without counting: the last of an epoch.
const paddedShare = 8

// DocumentBounds says how many documents a micro-batch has at most, the padding of a row counted as one, and how many tokens a
// document. Whoever makes room for documents makes as much. The number is that of the first epoch and a quarter more, as packing
// differs from epoch to epoch; so now and then a batch may have more, and the last of an epoch longer padding. 0 tokens: as many as a row.
func (l *Loader) DocumentBounds() (most, longest int) {
	if !l.opt.Pack {
		return 2 * l.sides() * l.opt.MicroBatch, 0
	}
	for _, id := range l.set.rows {
		longest = max(longest, l.docLen(id))
	}
	p := l.plan(0)
	steps := (p.len() + l.opt.Batch - 1) / l.opt.Batch
	n, padded, longer := steps*l.MicroBatches(), 0, longest
	for i := range n {
		docs, padding := l.packed(p, i/l.MicroBatches(), i%l.MicroBatches())
		most = max(most, docs)
		if padding > longest {
			padded, longer = padded+1, max(longer, padding)
		}
	}
	if padded*paddedShare > n {
		longest = longer
	}
	return most + most/4, longest
}

// packed counts the documents of a micro-batch, and the tokens of the longest padding.
func (l *Loader) packed(p *rowPlan, step, micro int) (docs, padding int) {
	lo, hi := l.span(p, step, micro)
	for i := lo; i < hi; i++ {
		docs += len(p.row(i))
		if left := l.opt.SeqLen - l.rowLen(p, i); left > 0 {
			docs++
			padding = max(padding, left)
		}
	}
	if empty := l.opt.MicroBatch - (hi - lo); empty > 0 {
		docs, padding = docs+empty, l.opt.SeqLen
	}
	return docs, padding
}

// span is the rows of a micro-batch: lo to hi-1.
func (l *Loader) span(p *rowPlan, step, micro int) (lo, hi int) {
	base := step * l.opt.Batch
	lo = min(base+micro*l.opt.MicroBatch, p.len())
	return lo, min(lo+l.opt.MicroBatch, base+l.opt.Batch, p.len())
}
