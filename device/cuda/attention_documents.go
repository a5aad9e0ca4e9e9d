package cuda

import "github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"

const (
	documentSlots   = 1024 // that the kernel can fill
	documentThreads = 1024
)

// documents turns doc_start into lengths and offsets of packed documents.
type documents struct {
	slots                                   int32
	gate, lengths, offsetQ, offsetK, offset int64 // in scratch memory
	size                                    int64 // of all of them, at its beginning
	findFn                                  *Function
}

func (a *attention) newDocuments(slots int32, mem *parts) (*documents, error) {
	d := &documents{slots: slots, gate: mem.take(4), lengths: mem.take(4 * int64(slots))}
	for _, p := range []*int64{&d.offsetQ, &d.offsetK, &d.offset} {
		*p = mem.take(8 * int64(slots+1))
	}
	d.size = mem.used
	var err error
	d.findFn, err = a.dev.Function(a.program("attention_documents.cu"), "attend_documents")
	return d, err
}

// find enqueues the search and sets the operands that it fills. Where lse is not 0 it is transposed to the library's Stats as well.
func (d *documents) find(c *Call, args *attnArgs, scratch Addr, at *cudnn.Operands, lse Addr) error {
	put := func(off int64, roles ...cudnn.Role) Addr {
		for _, r := range roles {
			at[r] = uint64(scratch) + uint64(off)
		}
		return scratch + Addr(off)
	}
	blocks := 1
	if lse != 0 {
		blocks += c.Dev.Multiprocessors()
	}
	return c.Launch(d.findFn, Rows(blocks, documentThreads), args, d.slots, put(d.gate), put(d.lengths, cudnn.LenQ, cudnn.LenK), put(d.offsetQ, cudnn.OffsetQ),
		put(d.offsetK, cudnn.OffsetK), put(d.offset, cudnn.OffsetStats), lse, Addr(at[cudnn.Stats]))
}
