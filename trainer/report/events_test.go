package report

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// event is what the tests read back of a record.
type event struct {
	wall    float64
	step    int64
	version string
	session bool
	tag     string
	simple  float32
	text    string
	plugin  string
}

// message splits a protocol buffer into fields: varints as uint64, fixed as their bits, the rest as bytes.
func message(t *testing.T, b []byte) map[int][]any {
	t.Helper()
	out := map[int][]any{}
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		require.Positive(t, n)
		b = b[n:]
		var v any
		switch key & 7 {
		case wireVarint:
			u, n := binary.Uvarint(b)
			require.Positive(t, n)
			v, b = u, b[n:]
		case wireFixed64:
			v, b = binary.LittleEndian.Uint64(b), b[8:]
		case wireFixed32:
			v, b = binary.LittleEndian.Uint32(b), b[4:]
		case wireBytes:
			size, n := binary.Uvarint(b)
			require.LessOrEqual(t, size, uint64(len(b)-n))
			v, b = b[n:n+int(size)], b[n+int(size):]
		default:
			require.Fail(t, "unknown wire type")
		}
		out[int(key>>3)] = append(out[int(key>>3)], v)
	}
	return out
}

func inner(t *testing.T, m map[int][]any, field int) map[int][]any {
	t.Helper()
	require.Len(t, m[field], 1)
	return message(t, m[field][0].([]byte))
}

func readEvents(t *testing.T, path string) []event {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var out []event
	for len(b) > 0 {
		size := binary.LittleEndian.Uint64(b)
		require.Equal(t, maskedCRC(b[:8]), binary.LittleEndian.Uint32(b[8:]))
		data := b[12 : 12+size]
		require.Equal(t, maskedCRC(data), binary.LittleEndian.Uint32(b[12+size:]))
		b = b[16+size:]
		out = append(out, parseEvent(t, message(t, data)))
	}
	return out
}

func parseEvent(t *testing.T, m map[int][]any) event {
	t.Helper()
	e := event{wall: math.Float64frombits(m[eventWallTime][0].(uint64))}
	if s, ok := m[eventStep]; ok {
		e.step = int64(s[0].(uint64))
	}
	if v, ok := m[eventVersion]; ok {
		e.version = string(v[0].([]byte))
	}
	if _, ok := m[eventSession]; ok {
		e.session = inner(t, m, eventSession)[sessionStatus][0].(uint64) == sessionStart
	}
	if _, ok := m[eventSummary]; !ok {
		return e
	}
	v := inner(t, inner(t, m, eventSummary), summaryValue)
	e.tag = string(v[valueTag][0].([]byte))
	if s, ok := v[valueSimple]; ok {
		e.simple = math.Float32frombits(s[0].(uint32))
	}
	if _, ok := v[valueTensor]; ok {
		e.text = string(inner(t, v, valueTensor)[tensorStrings][0].([]byte))
		e.plugin = string(inner(t, inner(t, v, valueMetadata), metadataPlugin)[pluginName][0].([]byte))
	}
	return e
}

func writeSample(t *testing.T, dir string) string {
	t.Helper()
	at := time.Unix(1700000000, 5e8)
	e, err := CreateEvents(dir, EventOptions{Now: func() time.Time { return at }, Host: "a host/x"})
	require.NoError(t, err)
	require.NoError(t, e.Restart(2))
	require.NoError(t, e.Text(0, "config", "model: m\n"))
	r := row(3)
	eval := 1.25
	r.EvalLoss = &eval
	require.NoError(t, e.Row(r))
	require.NoError(t, e.Scalar(4, "train/loss", math.NaN()))
	require.NoError(t, e.Close())
	return e.Name()
}

func TestEvents(t *testing.T) {
	dir := t.TempDir()
	name := writeSample(t, dir)
	require.Equal(t, "events.out.tfevents.1700000000.a-host-x.0", filepath.Base(name))
	events := readEvents(t, name)
	require.Len(t, events, 10)
	require.Equal(t, event{wall: 1700000000.5, version: "brain.Event:2"}, events[0])
	require.Equal(t, event{wall: 1700000000.5, step: 3, session: true}, events[1])
	require.Equal(t, event{wall: 1700000000.5, tag: "config", text: "model: m\n", plugin: "text"}, events[2])
	require.Equal(t, event{wall: 1700000000.5, step: 3, tag: "train/loss", simple: 2.5}, events[3])
	require.Equal(t, event{wall: 1700000000.5, step: 3, tag: "eval/loss", simple: 1.25}, events[8])
	require.True(t, math.IsNaN(float64(events[9].simple)))
	require.True(t, strings.HasSuffix(writeSample(t, dir), ".1"))
	_, err := CreateEvents(filepath.Join(dir, "none"), EventOptions{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestMaskedCRC checks the standard check value of CRC-32C and the masking rule.
func TestMaskedCRC(t *testing.T) {
	crc := uint32(0xe3069283)
	require.Equal(t, (crc>>15|crc<<17)+0xa282ead8, maskedCRC([]byte("123456789")))
}
