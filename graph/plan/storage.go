package plan

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// rootKind says where a piece of storage lives.
type rootKind uint8

const (
	inArena rootKind = iota
	inVar
	inConst
	inHost // host memory, where intermediates wait
)

// root is one piece of storage: an interval of the arena or of the host memory beside it, the bytes of a variable, or a constant.
type root struct {
	kind  rootKind
	bytes int64
	v     *graph.Var // inVar: the owner of the storage
	node  *graph.Node
	out   int // which output of the node

	// arena and host memory only
	offset     int64
	birth, end int // steps; an interval is live from birth to end inclusive
	joined     int // root whose bytes this one reuses, itself when its own
	scratch    bool
}

// place is an address before the arena and the store are known: bytes from off on inside a root. root -1 is absent.
type place struct {
	root int
	off  int64
}

var nowhere = place{root: -1}

// storage assigns a place to every value of a graph.
type storage struct {
	g      *graph.Graph
	roots  []root
	at     map[graph.Value]place
	ofVar  map[*graph.Var]int
	placed map[*graph.Node][]int // by output: index into the graph's writes of the variable it is written into, -1 for none
	views  []viewAt              // by node ID
	copies []int                 // writes that need a copy when the step ends
}

// viewAt says whether a node is a view of its first input, and from which byte on.
type viewAt struct {
	off int64
	ok  bool
}

func newStorage(g *graph.Graph) *storage {
	s := &storage{g: g, at: make(map[graph.Value]place, len(g.Nodes())), ofVar: map[*graph.Var]int{}, placed: map[*graph.Node][]int{},
		views: make([]viewAt, len(g.Nodes()))}
	for i, n := range g.Nodes() {
		if v, ok := n.Op.(graph.Viewer); ok {
			s.views[i].off, s.views[i].ok = v.View(n.InTypes())
		}
	}
	return s
}

func (s *storage) isView(n *graph.Node) bool { return s.views[n.ID].ok }

func (s *storage) newRoot(r root) int {
	r.joined = len(s.roots)
	s.roots = append(s.roots, r)
	return r.joined
}

// varPlace returns where a variable lives.
func (s *storage) varPlace(v *graph.Var) place {
	owner, off := v.Root()
	i, ok := s.ofVar[owner]
	if !ok {
		i = s.newRoot(root{kind: inVar, bytes: owner.Type.Bytes(), v: owner})
		s.ofVar[owner] = i
	}
	return place{i, off}
}

// planWrites decides which produced values can be written straight into their variable. A value qualifies when nothing else
// is written from it; whether the readers of the old value come first is settled by the scheduler. skip lists writes that
// turned out to need a copy.
func (s *storage) planWrites(skip map[int]bool) {
	s.copies = s.copies[:0]
	clear(s.placed)
	for i, w := range s.g.Writes() {
		n := w.Value.Node()
		taken := s.placed[n] != nil && s.placed[n][w.Value.Index()] >= 0 // written to another variable already
		if skip[i] || taken || s.isView(n) || isLeaf(n) || !s.selfReadsAllowed(n, w) {
			s.copies = append(s.copies, i)
			continue
		}
		if s.placed[n] == nil {
			s.placed[n] = make([]int, len(n.Out))
			for j := range n.Out {
				s.placed[n][j] = -1
			}
		}
		s.placed[n][w.Value.Index()] = i
	}
}

// selfReadsAllowed reports whether n may write its output over the variable although it reads it: only through an input that
// the op declares as an alias of that output, at the very same bytes.
func (s *storage) selfReadsAllowed(n *graph.Node, w graph.Write) bool {
	target := s.varPlace(w.Var)
	for j, v := range n.In {
		if v.Absent() {
			continue
		}
		p, ok := s.staticPlace(v)
		if !ok || p.root != target.root || !overlaps(p.off, v.Type().Bytes(), target.off, w.Var.Type.Bytes()) {
			continue
		}
		if p.off != target.off || v.Type().Bytes() != w.Var.Type.Bytes() || !aliases(n.Op, w.Value.Index(), j) {
			return false
		}
	}
	return true
}

// staticPlace follows views down to a variable.
func (s *storage) staticPlace(v graph.Value) (place, bool) {
	var off int64
	for s.isView(v.Node()) {
		off += s.views[v.Node().ID].off
		v = v.Node().In[0]
	}
	r, ok := v.Node().Op.(graph.Read)
	if !ok {
		return nowhere, false
	}
	p := s.varPlace(r.Var)
	p.off += off
	return p, true
}

func overlaps(a, an, b, bn int64) bool { return a < b+bn && b < a+an }

func aliases(op graph.Op, out, in int) bool {
	a, ok := op.(graph.Aliaser)
	if !ok {
		return false
	}
	for _, p := range a.Alias() {
		if p.Out == out && p.In == in {
			return true
		}
	}
	return false
}

// required reports whether the op insists on updating this output in place.
func required(op graph.Op, out int) bool {
	a, ok := op.(graph.Aliaser)
	if !ok {
		return false
	}
	for _, p := range a.Alias() {
		if p.Out == out && p.Required {
			return true
		}
	}
	return false
}
