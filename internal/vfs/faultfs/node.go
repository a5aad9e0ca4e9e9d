package faultfs

import (
	"io/fs"
	"maps"
	"slices"
	"time"
)

// node is a file or a folder in both states. In a folder, kids is what programs see and durableKids what is on the disk.
type node struct {
	dir           bool
	data, durable []byte
	lost          bool // a sync failed: the pages were dropped, later syncs cannot write them
	kids          map[string]*node
	durableKids   map[string]*node
}

func newDir() *node {
	return &node{dir: true, kids: map[string]*node{}, durableKids: map[string]*node{}}
}

func (n *node) clone(done map[*node]*node) *node {
	if c := done[n]; c != nil {
		return c
	}
	c := &node{dir: n.dir, data: slices.Clone(n.data), durable: slices.Clone(n.durable), lost: n.lost}
	done[n] = c
	if n.dir {
		c.kids, c.durableKids = map[string]*node{}, map[string]*node{}
		for k, v := range n.kids {
			c.kids[k] = v.clone(done)
		}
		for k, v := range n.durableKids {
			c.durableKids[k] = v.clone(done)
		}
	}
	return c
}

// survive returns what the disk holds after a crash. done keeps one node for one inode.
func (n *node) survive(d Disk, c *chooser, done map[*node]*node) *node {
	if s := done[n]; s != nil {
		return s
	}
	s := &node{dir: n.dir}
	done[n] = s
	if !n.dir {
		s.data = slices.Clone(n.durable)
		if d == Kept || (d == Torn && !n.lost && c.flip()) {
			s.data = slices.Clone(n.data)
		}
		s.durable = slices.Clone(s.data)
		return s
	}
	s.kids = map[string]*node{}
	for _, name := range n.names() {
		kid := n.durableKids[name]
		if seen := n.kids[name]; seen != kid && (d == Kept || (d == Torn && c.flip())) {
			kid = seen
		}
		if kid != nil {
			s.kids[name] = kid.survive(d, c, done)
		}
	}
	s.durableKids = maps.Clone(s.kids)
	return s
}

// names lists the entries of both states in order.
func (n *node) names() []string {
	all := maps.Clone(n.kids)
	maps.Copy(all, n.durableKids)
	return slices.Sorted(maps.Keys(all))
}

// chooser makes the same coin flips for the same seed (splitmix64).
type chooser struct{ state uint64 }

func (c *chooser) flip() bool {
	c.state += 0x9e3779b97f4a7c15
	z := c.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (z^z>>31)&1 == 1
}

// info is fs.FileInfo and fs.DirEntry of a node.
type info struct {
	name string
	size int64
	dir  bool
}

func (n *node) info(name string) info { return info{name, int64(len(n.data)), n.dir} }

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.size }
func (i info) ModTime() time.Time         { return time.Time{} }
func (i info) IsDir() bool                { return i.dir }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o777
	}
	return 0o666
}
