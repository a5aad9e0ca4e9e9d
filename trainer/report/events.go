package report

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Field numbers and constants of TensorBoard's protocol buffers (event.proto, summary.proto, tensor.proto).
const (
	eventWallTime, eventStep, eventVersion, eventSummary, eventSession   = 1, 2, 3, 5, 7
	summaryValue                                                         = 1
	valueTag, valueSimple, valueTensor, valueMetadata                    = 1, 2, 8, 9
	metadataPlugin, pluginName                                           = 1, 1
	tensorDType, tensorShape, tensorStrings, shapeDim, dimSize, dtString = 1, 2, 8, 2, 1, 7
	sessionStatus, sessionStart                                          = 1, 1
	wireVarint, wireFixed64, wireBytes, wireFixed32                      = 0, 1, 2, 5
)

// EventOptions configure an event writer. The zero value uses the system's clock and host name.
type EventOptions struct {
	Now  func() time.Time
	Host string
}

// Events writes a TensorBoard event file: records of Event messages in TFRecord framing. It is not safe for concurrent use.
type Events struct {
	file *os.File
	now  func() time.Time
	buf  []byte
}

// CreateEvents makes a new file events.out.tfevents.TIME.HOST.N in dir, beside those of earlier runs.
func CreateEvents(dir string, o EventOptions) (*Events, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Host == "" {
		o.Host, _ = os.Hostname()
	}
	host := regexp.MustCompile(`[^A-Za-z0-9-]+`).ReplaceAllString(o.Host, "-")
	base := fmt.Sprintf("events.out.tfevents.%010d.%s", o.Now().Unix(), host)
	for n := range 1000 {
		name := filepath.Join(dir, fmt.Sprintf("%s.%d", base, n))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("events: %w", err)
		}
		e := &Events{file: f, now: o.Now}
		if err := e.write(appendBytes(nil, eventVersion, "brain.Event:2")); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return e, nil
	}
	return nil, fmt.Errorf("events: %s holds 1000 files of this second already", dir)
}

// Restart tells TensorBoard that the run goes on after step, the step of the checkpoint: it drops later points of earlier files.
func (e *Events) Restart(step int64) error {
	log := appendVarint(nil, sessionStatus, sessionStart)
	return e.write(appendBytes(appendVarint(nil, eventStep, uint64(step+1)), eventSession, string(log)))
}

// Scalar writes one value, such as "train/loss".
func (e *Events) Scalar(step int64, tag string, v float64) error {
	value := appendBytes(nil, valueTag, tag)
	value = binary.AppendUvarint(value, valueSimple<<3|wireFixed32)
	value = binary.LittleEndian.AppendUint32(value, math.Float32bits(float32(v)))
	return e.summary(step, value)
}

// Text writes a text, shown by TensorBoard as Markdown.
func (e *Events) Text(step int64, tag, text string) error {
	plugin := appendBytes(nil, pluginName, "text")
	dim := appendVarint(nil, dimSize, 1)
	tensor := appendVarint(nil, tensorDType, dtString)
	tensor = appendBytes(tensor, tensorShape, string(appendBytes(nil, shapeDim, string(dim))))
	tensor = appendBytes(tensor, tensorStrings, text)
	value := appendBytes(nil, valueTag, tag)
	value = appendBytes(value, valueTensor, string(tensor))
	value = appendBytes(value, valueMetadata, string(appendBytes(nil, metadataPlugin, string(plugin))))
	return e.summary(step, value)
}

// Row writes the numbers of one step under train/ and eval/.
func (e *Events) Row(r Row) error {
	type point struct {
		tag string
		v   float64
	}
	points := []point{
		{"train/loss", r.Loss}, {"train/lr", r.LR}, {"train/grad_norm", r.GradNorm},
		{"train/tokens_per_s", r.TokensPerSec}, {"train/memory_bytes", float64(r.MemoryBytes)},
	}
	if r.MFU > 0 {
		points = append(points, point{"train/mfu", r.MFU})
	}
	if r.EvalLoss != nil {
		points = append(points, point{"eval/loss", *r.EvalLoss})
	}
	for _, key := range slices.Sorted(maps.Keys(r.More)) {
		tag := "train/" + key
		if rest, ok := strings.CutPrefix(key, "eval_"); ok {
			tag = "eval/" + rest
		}
		points = append(points, point{tag, r.More[key]})
	}
	for _, p := range points {
		if err := e.Scalar(r.Step, p.tag, p.v); err != nil {
			return err
		}
	}
	return nil
}

// Name is the path of the file.
func (e *Events) Name() string { return e.file.Name() }

// Close syncs and closes the file.
func (e *Events) Close() error { return errors.Join(e.file.Sync(), e.file.Close()) }

func (e *Events) summary(step int64, value []byte) error {
	summary := appendBytes(nil, summaryValue, string(value))
	return e.write(appendBytes(appendVarint(nil, eventStep, uint64(step)), eventSummary, string(summary)))
}

// write adds the wall time to the fields of an Event and writes it as one record:
// length u64, masked CRC-32C of the length u32, data, masked CRC-32C of the data u32, all little-endian.
func (e *Events) write(fields []byte) error {
	event := binary.AppendUvarint(nil, eventWallTime<<3|wireFixed64)
	seconds := float64(e.now().UnixNano()) / 1e9
	event = binary.LittleEndian.AppendUint64(event, math.Float64bits(seconds))
	event = append(event, fields...)
	b := binary.LittleEndian.AppendUint64(e.buf[:0], uint64(len(event)))
	b = binary.LittleEndian.AppendUint32(b, maskedCRC(b))
	b = append(b, event...)
	b = binary.LittleEndian.AppendUint32(b, maskedCRC(event))
	e.buf = b
	if _, err := e.file.Write(b); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TFRecord's checksum: CRC-32C rotated right by 15 bits plus a constant.
func maskedCRC(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

func appendVarint(b []byte, field int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field)<<3|wireVarint), v)
}

func appendBytes(b []byte, field int, data string) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}
