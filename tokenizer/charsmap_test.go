package tokenizer

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// oneEntryMap is a table that replaces the letter a.
func oneEntryMap(with string) []byte {
	units := make([]uint32, 256)
	units[0] = 0                       // children at their bytes
	units['a'] = 'a' | 1<<8 | 0x62<<10 // a value, at the place 0x61^0x62
	units['a'^0x62] = 1 << 31          // offset 0 of the replacements
	raw := binary.LittleEndian.AppendUint32(nil, uint32(4*len(units)))
	for _, u := range units {
		raw = binary.LittleEndian.AppendUint32(raw, u)
	}
	return append(append(raw, with...), 0)
}

func TestCharsMap(t *testing.T) {
	m, err := parseCharsMap(oneEntryMap("xyz"))
	require.NoError(t, err)
	got, err := m.normalize("bab")
	require.NoError(t, err)
	require.Equal(t, "bxyzb", got)
	to, size := m.longest("ab")
	require.Equal(t, "xyz", to)
	require.Equal(t, 1, size)
}

func TestCharsMapThatGrowsIsAnError(t *testing.T) {
	m, err := parseCharsMap(oneEntryMap(strings.Repeat("x", 1<<20)))
	require.NoError(t, err)
	text := strings.Repeat("a", 1<<12)
	_, err = m.normalize(text)
	require.ErrorIs(t, err, errGrown)
	n := spNormalizer{chars: m, space: spSpace}
	_, err = n.normalize(text)
	require.ErrorIs(t, err, errGrown)
}
