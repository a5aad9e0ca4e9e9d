package data

import "errors"

// thriftBuf walks Thrift's compact encoding, in which Parquet writes its footer and page headers, without building anything: counts and
// lengths are checked against the bytes at hand before a decoder believes them.
// (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md)
type thriftBuf struct {
	b     []byte
	visit func(path []int16, v int64) // told of every integer field; may be nil
	path  []int16
}

var (
	errThriftCut  = errors.New("ends inside a structure")
	errThriftBad  = errors.New("holds a type that does not exist")
	errThriftDeep = errors.New("is nested too deep")
	errThriftList = errors.New("counts more elements than it has bytes")
)

const thriftDepth = 24

// Types of the compact encoding.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI16    = 4
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
)

func (t *thriftBuf) byte() (byte, error) {
	if len(t.b) == 0 {
		return 0, errThriftCut
	}
	c := t.b[0]
	t.b = t.b[1:]
	return c, nil
}

func (t *thriftBuf) uvarint() (v uint64, err error) {
	for shift := 0; shift < 64; shift += 7 {
		c, err := t.byte()
		if err != nil {
			return 0, err
		}
		if v |= uint64(c&0x7f) << shift; c < 0x80 {
			return v, nil
		}
	}
	return 0, errThriftBad
}

func (t *thriftBuf) skip(n uint64) error {
	if n > uint64(len(t.b)) {
		return errThriftCut
	}
	t.b = t.b[n:]
	return nil
}

// structure walks the fields of a struct up to its end.
func (t *thriftBuf) structure(depth int) error {
	if depth > thriftDepth {
		return errThriftDeep
	}
	id := int16(0)
	for {
		head, err := t.byte()
		if err != nil || head == 0 {
			return err
		}
		if delta := head >> 4; delta != 0 {
			id += int16(delta)
		} else {
			v, err := t.uvarint()
			if err != nil {
				return err
			}
			id = int16(v>>1) ^ -int16(v&1)
		}
		t.path = append(t.path, id)
		if err := t.value(head&15, depth, true); err != nil {
			return err
		}
		t.path = t.path[:len(t.path)-1]
	}
}

// value walks one value; booleans that are fields have their value in the type.
func (t *thriftBuf) value(kind byte, depth int, field bool) error {
	switch {
	case kind == thriftTrue || kind == thriftFalse:
		if field {
			return nil
		}
		return t.skip(1)
	case kind == thriftByte:
		return t.skip(1)
	case kind >= thriftI16 && kind <= thriftI64:
		v, err := t.uvarint()
		if err == nil && field && t.visit != nil {
			t.visit(t.path, int64(v>>1)^-int64(v&1))
		}
		return err
	case kind == thriftDouble:
		return t.skip(8)
	case kind == thriftBinary:
		n, err := t.uvarint()
		if err != nil {
			return err
		}
		return t.skip(n)
	case kind == thriftList || kind == thriftSet:
		return t.list(depth)
	case kind == thriftMap:
		return t.pairs(depth)
	case kind == thriftStruct:
		return t.structure(depth + 1)
	}
	return errThriftBad
}

func (t *thriftBuf) list(depth int) error {
	head, err := t.byte()
	if err != nil {
		return err
	}
	n := uint64(head >> 4)
	if n == 15 {
		if n, err = t.uvarint(); err != nil {
			return err
		}
	}
	return t.elements(n, depth, head&15)
}

func (t *thriftBuf) pairs(depth int) error {
	n, err := t.uvarint()
	if err != nil || n == 0 {
		return err
	}
	kinds, err := t.byte()
	if err != nil {
		return err
	}
	return t.elements(n, depth, kinds>>4, kinds&15)
}

// elements walks n elements, each of the kinds given; all kinds take at least a byte.
func (t *thriftBuf) elements(n uint64, depth int, kinds ...byte) error {
	if n > uint64(len(t.b)) {
		return errThriftList
	}
	if depth >= thriftDepth {
		return errThriftDeep
	}
	for range n {
		for _, k := range kinds {
			if err := t.value(k, depth+1, false); err != nil {
				return err
			}
		}
	}
	return nil
}
