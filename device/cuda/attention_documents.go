package cuda

import "github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"

// documents turns doc_start into lengths and offsets of packed documents.
type documents struct {
	slots                                   int32
	gate, lengths, offsetQ, offsetK, offset int64 // in scratch memory
	size                                    int64 // of all of them, at its beginning
	findFn, turnFn                          *Function
}

func (a *attention) newDocuments(slots int32, mem *parts) (*documents, error) {
	d := &documents{slots: slots, gate: mem.take(4), lengths: mem.take(4 * int64(slots))}
	for _, p := range []*int64{&d.offsetQ, &d.offsetK, &d.offset} {
		*p = mem.take(8 * int64(slots+1))
	}
	d.size = mem.used
	var err error
	if d.findFn, err = a.dev.Function(a.program("attention_documents.cu"), "attend_documents"); err != nil {
		return nil, err
	}
	d.turnFn, err = a.dev.Function(a.program("attention_documents.cu"), "attend_turn")
	return d, err
}

// find enqueues the search and sets the operands that it fills.
func (d *documents) find(c *Call, args *attnArgs, scratch Addr, at *cudnn.Operands) error {
	put := func(off int64, roles ...cudnn.Role) Addr {
		for _, r := range roles {
			at[r] = uint64(scratch) + uint64(off)
		}
		return scratch + Addr(off)
	}
	return c.Launch(d.findFn, Rows(1, 1024), args, d.slots, put(d.gate), put(d.lengths, cudnn.LenQ, cudnn.LenK), put(d.offsetQ, cudnn.OffsetQ),
		put(d.offsetK, cudnn.OffsetK), put(d.offset, cudnn.OffsetStats))
}

// turn transposes the rows x columns numbers of each row of the batch.
func (d *documents) turn(c *Call, args *attnArgs, rows, columns int32, from, to Addr) error {
	tiles := int((rows + 31) / 32 * ((columns + 31) / 32))
	return c.Launch(d.turnFn, Geometry{Grid: [3]int{tiles, min(int(args.b), 65535)}, Block: [3]int{32, 8}}, args, rows, columns, from, to)
}
