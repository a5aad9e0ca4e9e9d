package plan

import (
	"container/heap"
	"fmt"
	"sort"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// scheduler orders the nodes: a node runs when its inputs are ready and, if it overwrites a variable in place, when every
// reader of the old value has run. Among the ready it prefers collectives (they start as soon as they can), then nodes that
// free at least as many bytes as they take, then the order of the graph.
type scheduler struct {
	s     *storage
	g     *graph.Graph
	succ  [][]int
	waits []int
	users []int // by node ID: uses of its outputs not yet run
	keep  []bool
	rank  func(id int) int
	ready readyQueue
	order []*graph.Node
}

// schedule returns the order. Writes that cannot be placed, because a reader of the old value needs the new one, fall back to
// a copy.
func (s *storage) schedule(outs []graph.Value, rank func(id int) int) ([]*graph.Node, error) {
	if err := s.checkOverlap(); err != nil {
		return nil, err
	}
	skip := map[int]bool{}
	for {
		s.planWrites(skip)
		sc := newScheduler(s, outs)
		if rank != nil {
			sc.rank = rank
		}
		if sc.run() {
			return sc.order, s.checkRequired()
		}
		if !sc.giveUp(skip) {
			return nil, fmt.Errorf("plan: the graph has a cycle") // excluded by topological IDs
		}
	}
}

func newScheduler(s *storage, outs []graph.Value) *scheduler {
	n := len(s.g.Nodes())
	sc := &scheduler{s: s, g: s.g, succ: make([][]int, n), waits: make([]int, n), users: make([]int, n), keep: make([]bool, n),
		rank: func(id int) int { return id }}
	for i, node := range s.g.Nodes() {
		for _, v := range node.In {
			if v.Valid() {
				sc.edge(v.Node().ID, i)
				sc.users[v.Node().ID]++
			}
		}
	}
	for _, v := range outs {
		sc.keep[v.Node().ID] = true
	}
	for _, w := range s.g.Writes() {
		sc.keep[w.Value.Node().ID] = true
	}
	sc.antiDependencies()
	return sc
}

func (sc *scheduler) edge(from, to int) {
	sc.succ[from] = append(sc.succ[from], to)
	sc.waits[to]++
}

// antiDependencies makes in-place updates wait for the readers of the storage they overwrite.
func (sc *scheduler) antiDependencies() {
	readers := map[int][]varUse{}
	for _, n := range sc.g.Nodes() {
		for _, v := range n.In {
			if !v.Valid() {
				continue
			}
			if p, ok := sc.s.staticPlace(v); ok {
				readers[p.root] = append(readers[p.root], varUse{n, p.off, v.Type().Bytes()})
			}
		}
	}
	writes := sc.g.Writes()
	for n, byOut := range sc.s.placed {
		for _, wi := range byOut {
			if wi < 0 {
				continue
			}
			target := sc.s.varPlace(writes[wi].Var)
			for _, u := range readers[target.root] {
				if u.node != n && !sc.s.isView(u.node) && overlaps(u.off, u.bytes, target.off, writes[wi].Var.Type.Bytes()) {
					sc.edge(u.node.ID, n.ID)
				}
			}
		}
	}
}

type varUse struct {
	node       *graph.Node
	off, bytes int64
}

func (sc *scheduler) run() bool {
	for i := range sc.waits {
		if sc.waits[i] == 0 {
			sc.push(i)
		}
	}
	for sc.ready.Len() > 0 {
		id := heap.Pop(&sc.ready).(readyNode).id
		n := sc.g.Nodes()[id]
		sc.order = append(sc.order, n)
		for _, v := range n.In {
			if v.Valid() {
				sc.users[v.Node().ID]--
			}
		}
		for _, next := range sc.succ[id] {
			if sc.waits[next]--; sc.waits[next] == 0 {
				sc.push(next)
			}
		}
	}
	return len(sc.order) == len(sc.g.Nodes())
}

func (sc *scheduler) push(id int) {
	n := sc.g.Nodes()[id]
	class := classLater
	switch {
	case isLeaf(n) || sc.s.isView(n):
		class = classFree
	case laneOf(n) != graph.Compute:
		class = classComm
	case sc.frees(n):
		class = classFrees
	}
	heap.Push(&sc.ready, readyNode{class, sc.rank(id), id})
}

// frees reports whether running n now cannot raise the memory in use: its inputs that die are at least as large as what it
// allocates.
func (sc *scheduler) frees(n *graph.Node) bool {
	var gain int64
	for i, t := range n.Out {
		if byOut := sc.s.placed[n]; byOut == nil || byOut[i] < 0 {
			gain -= t.Bytes()
		}
	}
	for i, v := range n.In {
		if !v.Valid() || isLeaf(v.Node()) || sc.keep[v.Node().ID] || repeats(n.In, i) {
			continue
		}
		if sc.users[v.Node().ID] == 1 && !sc.s.isView(v.Node()) {
			gain += v.Type().Bytes()
		}
	}
	return gain >= 0
}

func repeats(in []graph.Value, i int) bool {
	for _, v := range in[:i] {
		if v == in[i] {
			return true
		}
	}
	return false
}

// giveUp turns placed writes that wait for each other into copies, those that need not be in place first; false when there are
// none.
func (sc *scheduler) giveUp(skip map[int]bool) bool {
	stuck := sc.stuck()
	var free, insist []int
	for n, byOut := range sc.s.placed {
		for out, wi := range byOut {
			switch {
			case wi < 0 || !stuck[n.ID] || skip[wi]:
			case required(n.Op, out):
				insist = append(insist, wi)
			default:
				free = append(free, wi)
			}
		}
	}
	if len(free) == 0 {
		free = insist
	}
	for _, wi := range free {
		skip[wi] = true
	}
	return len(free) > 0
}

// stuck marks the nodes that could not run and that another such node waits for, until only cycles and what lies between
// them are left: what merely follows a cycle is not to blame.
func (sc *scheduler) stuck() []bool {
	n := len(sc.g.Nodes())
	left := make([]bool, n)
	for i := range left {
		left[i] = true
	}
	for _, node := range sc.order {
		left[node.ID] = false
	}
	pred := make([][]int, n)
	out := make([]int, n)
	var ends []int
	for i := range n {
		for _, next := range sc.succ[i] {
			if left[i] && left[next] {
				pred[next] = append(pred[next], i)
				out[i]++
			}
		}
		if left[i] && out[i] == 0 {
			ends = append(ends, i)
		}
	}
	for len(ends) > 0 {
		i := ends[len(ends)-1]
		ends = ends[:len(ends)-1]
		left[i] = false
		for _, before := range pred[i] {
			if out[before]--; out[before] == 0 {
				ends = append(ends, before)
			}
		}
	}
	return left
}

// checkRequired refuses a copy of a variable that the op promised to update in place.
func (s *storage) checkRequired() error {
	for _, n := range s.g.Nodes() {
		a, ok := n.Op.(graph.Aliaser)
		if !ok {
			continue
		}
		for _, pair := range a.Alias() {
			if !pair.Required || pair.In >= len(n.In) || !n.In[pair.In].Valid() {
				continue
			}
			at, ok := s.staticPlace(n.In[pair.In])
			if !ok {
				continue
			}
			name := s.roots[at.root].v.Name
			byOut := s.placed[n]
			if byOut == nil || byOut[pair.Out] < 0 {
				return fmt.Errorf("%s: %s must update %s in place: write its result back to that variable, and read the result instead of the old value",
					n.Where(), n.Op.Name(), name)
			}
			if s.varPlace(s.g.Writes()[byOut[pair.Out]].Var) != at {
				return fmt.Errorf("%s: %s must update %s in place, but its result is written to %s", n.Where(), n.Op.Name(),
					name, s.g.Writes()[byOut[pair.Out]].Var.Name)
			}
		}
	}
	return nil
}

// checkOverlap refuses two writes to the same bytes: of a slab and of a view of it.
func (s *storage) checkOverlap() error {
	byRoot := map[int][]int{}
	for i, w := range s.g.Writes() {
		at := s.varPlace(w.Var)
		byRoot[at.root] = append(byRoot[at.root], i)
	}
	for _, list := range byRoot {
		sort.Slice(list, func(a, b int) bool {
			return s.varPlace(s.g.Writes()[list[a]].Var).off < s.varPlace(s.g.Writes()[list[b]].Var).off
		})
		end, last := int64(-1), ""
		for _, i := range list {
			v := s.g.Writes()[i].Var
			off := s.varPlace(v).off
			if off < end {
				return fmt.Errorf("plan: the writes to %s and to %s overlap: one is a view of the other's storage", last, v.Name)
			}
			end, last = off+v.Type.Bytes(), v.Name
		}
	}
	return nil
}

func laneOf(n *graph.Node) graph.Lane {
	if l, ok := n.Op.(graph.Laner); ok {
		return l.Lane()
	}
	return graph.Compute
}

// The classes of ready nodes, best first.
const (
	classFree = iota
	classComm
	classFrees
	classLater
)

type readyNode struct {
	class int
	rank  int
	id    int
}

type readyQueue struct {
	items []readyNode
}

func (q *readyQueue) Len() int { return len(q.items) }

func (q *readyQueue) Less(i, j int) bool {
	a, b := q.items[i], q.items[j]
	if a.class != b.class {
		return a.class < b.class
	}
	return a.rank < b.rank || a.rank == b.rank && a.id < b.id
}

func (q *readyQueue) Swap(i, j int) { q.items[i], q.items[j] = q.items[j], q.items[i] }

// Push implements heap.Interface.
func (q *readyQueue) Push(x any) { q.items = append(q.items, x.(readyNode)) }

// Pop implements heap.Interface.
func (q *readyQueue) Pop() any {
	x := q.items[len(q.items)-1]
	q.items = q.items[:len(q.items)-1]
	return x
}
