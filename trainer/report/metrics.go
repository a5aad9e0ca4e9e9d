package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
)

// maxRow bounds a line of metrics.jsonl.
const maxRow = 1 << 20

// Row is one line of metrics.jsonl: one optimizer step. A number that is not finite is written as null and read as NaN.
type Row struct {
	Step         int64    // optimizer steps done, from 1
	Loss         float64  // mean over the trained tokens of the step
	LR           float64  // learning rate of the step
	GradNorm     float64  // norm of the whole gradient before clipping
	Tokens       int64    // trained tokens of the step over all ranks
	TokensPerSec float64  // Tokens / Seconds
	MemoryBytes  int64    // peak device memory so far
	Seconds      float64  // wall time of the step
	EvalLoss     *float64 // mean loss of the held-out rows after the step; nil when there was no evaluation
	MFU          float64  // useful arithmetic of the step as a share of what the device was measured to reach; 0 = unknown
	// More are further numbers by key, such as reward_margin; keys that begin with eval_ are of an evaluation.
	More map[string]float64
}

// Add puts further numbers into the row.
func (r *Row) Add(more map[string]float64) {
	if len(more) > 0 && r.More == nil {
		r.More = map[string]float64{}
	}
	maps.Copy(r.More, more)
}

// MarshalJSON writes the keys that scripts depend on, in a fixed order.
func (r Row) MarshalJSON() ([]byte, error) {
	b := []byte(`{"step":`)
	b = strconv.AppendInt(b, r.Step, 10)
	b = appendNumber(append(b, `,"loss":`...), r.Loss)
	b = appendNumber(append(b, `,"lr":`...), r.LR)
	b = appendNumber(append(b, `,"grad_norm":`...), r.GradNorm)
	b = strconv.AppendInt(append(b, `,"tokens":`...), r.Tokens, 10)
	b = appendNumber(append(b, `,"tokens_per_s":`...), r.TokensPerSec)
	b = strconv.AppendInt(append(b, `,"memory_bytes":`...), r.MemoryBytes, 10)
	b = appendNumber(append(b, `,"seconds":`...), r.Seconds)
	if r.EvalLoss != nil {
		b = appendNumber(append(b, `,"eval_loss":`...), *r.EvalLoss)
	}
	if r.MFU > 0 {
		b = appendNumber(append(b, `,"mfu":`...), r.MFU)
	}
	for _, key := range slices.Sorted(maps.Keys(r.More)) {
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		b = appendNumber(append(append(append(b, ','), name...), ':'), r.More[key])
	}
	return append(b, '}'), nil
}

// rowKeys are the keys of a row that have fields.
var rowKeys = []string{"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "memory_bytes", "seconds", "eval_loss", "mfu"}

// UnmarshalJSON reads a row. Other keys go to More if they hold numbers or null, and are ignored if not, so that later versions may add some.
func (r *Row) UnmarshalJSON(data []byte) error {
	var in struct {
		Step         *int64          `json:"step"`
		Loss         *float64        `json:"loss"`
		LR           *float64        `json:"lr"`
		GradNorm     *float64        `json:"grad_norm"`
		Tokens       int64           `json:"tokens"`
		TokensPerSec *float64        `json:"tokens_per_s"`
		MemoryBytes  int64           `json:"memory_bytes"`
		Seconds      *float64        `json:"seconds"`
		EvalLoss     json.RawMessage `json:"eval_loss"`
		MFU          float64         `json:"mfu"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	if in.Step == nil {
		return errors.New("the key step is missing")
	}
	*r = Row{
		Step: *in.Step, Loss: orNaN(in.Loss), LR: orNaN(in.LR), GradNorm: orNaN(in.GradNorm), Tokens: in.Tokens,
		TokensPerSec: orNaN(in.TokensPerSec), MemoryBytes: in.MemoryBytes, Seconds: orNaN(in.Seconds), MFU: in.MFU,
	}
	if in.EvalLoss != nil {
		var loss *float64
		if err := json.Unmarshal(in.EvalLoss, &loss); err != nil {
			return fmt.Errorf("eval_loss: %w", err)
		}
		v := orNaN(loss)
		r.EvalLoss = &v
	}
	return r.readMore(data)
}

func (r *Row) readMore(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for key, raw := range all {
		var v *float64
		if !slices.Contains(rowKeys, key) && json.Unmarshal(raw, &v) == nil {
			r.Add(map[string]float64{key: orNaN(v)})
		}
	}
	return nil
}

// Metrics appends rows to metrics.jsonl. Each row is one write to the file, so that a killed process leaves at most one torn
// line. It is not safe for concurrent use.
type Metrics struct {
	file *os.File
	last int64
	buf  []byte
}

// CreateMetrics starts a new file; one that holds rows already is refused.
func CreateMetrics(path string) (*Metrics, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = fmt.Errorf("%s holds the rows of another run: choose a new directory or resume that run", path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("metrics: %w", err), f.Close())
	}
	return &Metrics{file: f}, nil
}

// ResumeMetrics opens the file of an interrupted run and cuts the rows after step, the step of the checkpoint, and a torn
// last line. A file that does not exist is created. A malformed line before that is an error: the file is left unchanged.
func ResumeMetrics(path string, step int64) (*Metrics, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m := &Metrics{file: f}
	if err := m.cut(step); err != nil {
		return nil, errors.Join(fmt.Errorf("metrics: %s: %w", path, err), f.Close())
	}
	return m, nil
}

// cut truncates the file after the last row up to step and leaves the offset at its end.
func (m *Metrics) cut(step int64) error {
	var keep int64
	ended := true
	for l, err := range lines(m.file) {
		if err != nil {
			return err
		}
		if l.row.Step > step {
			break
		}
		keep, ended, m.last = l.end, l.ended, l.row.Step
	}
	if err := m.file.Truncate(keep); err != nil {
		return err
	}
	if _, err := m.file.Seek(keep, io.SeekStart); err != nil {
		return err
	}
	if !ended {
		_, err := m.file.Write([]byte("\n"))
		return err
	}
	return nil
}

// Append writes one row. Steps must rise.
func (m *Metrics) Append(r Row) error {
	if r.Step <= m.last {
		return fmt.Errorf("metrics: %s: step %d follows step %d", m.file.Name(), r.Step, m.last)
	}
	line, err := r.MarshalJSON()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	m.buf = append(append(m.buf[:0], line...), '\n')
	if _, err := m.file.Write(m.buf); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	m.last = r.Step
	return nil
}

// Last is the step of the newest row, 0 when there is none.
func (m *Metrics) Last() int64 { return m.last }

// Sync makes the rows durable. Call it before a checkpoint is declared durable, so that no row up to it can be lost.
func (m *Metrics) Sync() error { return m.file.Sync() }

// Close syncs and closes the file.
func (m *Metrics) Close() error { return errors.Join(m.file.Sync(), m.file.Close()) }

// ReadMetrics yields the rows of a metrics.jsonl in order. A torn last line is left out; any other malformed line ends the
// sequence with an error that names it. Memory is bounded by the longest line, at most 1 MiB.
func ReadMetrics(r io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for l, err := range lines(r) {
			if !yield(l.row, err) || err != nil {
				return
			}
		}
	}
}

// ReadMetricsFile returns all rows of a file.
func ReadMetricsFile(path string) ([]Row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer f.Close()
	var rows []Row
	for row, err := range ReadMetrics(f) {
		if err != nil {
			return nil, fmt.Errorf("metrics: %s: %w", path, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// line is a parsed line of the file.
type line struct {
	row   Row
	end   int64 // offset after the line
	ended bool  // closed by a newline
}

// lines yields every complete row. The last line counts when it parses, newline or not: a torn one never closes its brace.
func lines(r io.Reader) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var end int64
		for number := 1; ; number++ {
			text, err := readLine(in)
			if err != nil && !errors.Is(err, io.EOF) {
				yield(line{}, fmt.Errorf("line %d: %w", number, err))
				return
			}
			ended := err == nil
			end += int64(len(text))
			l := line{end: end, ended: ended}
			text = bytes.TrimSpace(text)
			if len(text) == 0 {
				if !ended {
					return
				}
				continue
			}
			if err := json.Unmarshal(text, &l.row); err != nil {
				if ended && !atEnd(in) {
					yield(line{}, fmt.Errorf("line %d is no row: %w", number, err))
				}
				return
			}
			if !yield(l, nil) || !ended {
				return
			}
		}
	}
}

// readLine returns the next line with its newline; io.EOF comes with the unended rest.
func readLine(in *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		text = append(text, part...)
		if len(text) > maxRow {
			return nil, fmt.Errorf("longer than %d bytes", maxRow)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, err
		}
	}
}

// atEnd reports whether nothing but white space or zero bytes follows. A crash of the machine can leave a block of zeros.
func atEnd(in *bufio.Reader) bool {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		if b != 0 && b != '\n' && b != ' ' && b != '\r' {
			return false
		}
	}
}

func appendNumber(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	format := byte('g')
	if a := math.Abs(v); a == 0 || a >= 1e-5 && a < 1e15 {
		format = 'f'
	}
	return strconv.AppendFloat(b, v, format, -1, 64)
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}
