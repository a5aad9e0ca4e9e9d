package tokenizer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// charsMap is SentencePiece's precompiled table of character replacements: a double-array trie of what is replaced (Darts-clone's
// layout) and the replacements, each ended by a zero byte.
type charsMap struct {
	units []uint32
	texts []byte
}

// parseCharsMap reads u32 size of the trie in bytes, the trie, the replacements.
func parseCharsMap(raw []byte) (*charsMap, error) {
	if len(raw) < 4 {
		return nil, fmt.Errorf("tokenizer: precompiled_charsmap has %d bytes, too few for its header", len(raw))
	}
	size := binary.LittleEndian.Uint32(raw)
	raw = raw[4:]
	if uint64(size) > uint64(len(raw)) || size%4 != 0 || size == 0 {
		return nil, fmt.Errorf("tokenizer: precompiled_charsmap says its trie has %d bytes and has %d left; the file is damaged", size, len(raw))
	}
	m := &charsMap{units: make([]uint32, size/4), texts: raw[size:]}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return m, nil
}

// longest returns the replacement of the longest entry at the start of s and the entry's size, 0 for none.
func (m *charsMap) longest(s string) (string, int) {
	to, size := uint32(0), 0
	m.walk(s, func(value uint32, n int) bool {
		to, size = value, n
		return true
	})
	if size == 0 {
		return "", 0
	}
	return m.text(to), size
}

// shortest returns the replacement of the shortest entry at the start of s. The tokenizers library replaces a whole cluster by it.
func (m *charsMap) shortest(s string) (to string, ok bool) {
	m.walk(s, func(value uint32, _ int) bool {
		to, ok = m.text(value), true
		return false
	})
	return to, ok
}

// text returns the replacement at an offset. An offset beyond the table gives nothing.
func (m *charsMap) text(at uint32) string {
	if uint64(at) >= uint64(len(m.texts)) {
		return ""
	}
	text := m.texts[at:]
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	return string(text)
}

// walk calls found with the value and size of each entry at the start of s, shortest first, until it returns false. Steps are
// bounded by the length of s, whatever the table holds.
func (m *charsMap) walk(s string, found func(value uint32, n int) bool) {
	at := uint32(0)
	if len(m.units) == 0 {
		return
	}
	unit := m.units[0]
	at ^= offset(unit)
	for i := range len(s) {
		c := uint32(s[i])
		if c == 0 {
			return
		}
		at ^= c
		if uint64(at) >= uint64(len(m.units)) {
			return
		}
		unit = m.units[at]
		if unit&(1<<31|0xFF) != c {
			return
		}
		at ^= offset(unit)
		if unit>>8&1 == 1 {
			if uint64(at) >= uint64(len(m.units)) {
				return
			}
			if !found(m.units[at]&(1<<31-1), i+1) {
				return
			}
		}
	}
}

// offset is the distance to a unit's children.
func offset(unit uint32) uint32 { return unit >> 10 << (unit >> 6 & 8) }

// normalize follows the Precompiled normalizer of the tokenizers library: a cluster of fewer than six bytes is replaced as a whole,
// else each of its characters, each time by the shortest entry that begins it.
func (m *charsMap) normalize(s string) (string, error) {
	limit := maxGrown(s)
	out := make([]byte, 0, len(s))
	for s != "" {
		n := clusterEnd(s)
		cluster := s[:n]
		s = s[n:]
		if len(out) > limit {
			return "", errGrown
		}
		if n < 6 {
			if to, ok := m.shortest(cluster); ok {
				out = append(out, to...)
				continue
			}
		}
		for cluster != "" {
			_, k := utf8.DecodeRuneInString(cluster)
			if to, ok := m.shortest(cluster[:k]); ok {
				out = append(out, to...)
			} else {
				out = append(out, cluster[:k]...)
			}
			cluster = cluster[k:]
		}
	}
	return string(out), nil
}
