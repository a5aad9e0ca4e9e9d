package report

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func row(step int64) Row {
	return Row{Step: step, Loss: 2.5, LR: 2e-4, GradNorm: 0.5, Tokens: 4096, TokensPerSec: 1234.5, MemoryBytes: 1 << 33, Seconds: 3.3}
}

func TestRowKeys(t *testing.T) {
	r := row(7)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Equal(t, `{"step":7,"loss":2.5,"lr":0.0002,"grad_norm":0.5,"tokens":4096,"tokens_per_s":1234.5,"memory_bytes":8589934592,"seconds":3.3}`, string(text))
	eval := 1.5
	r.EvalLoss, r.Loss, r.LR = &eval, math.NaN(), 1e-7
	text, err = json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"loss":null,"lr":1e-07,`)
	require.True(t, strings.HasSuffix(string(text), `,"eval_loss":1.5}`))
	var back Row
	require.NoError(t, json.Unmarshal(text, &back))
	require.True(t, math.IsNaN(back.Loss))
	require.Equal(t, 1.5, *back.EvalLoss)
	require.NoError(t, json.Unmarshal([]byte(`{"step":1,"loss":1,"eval_loss":null,"more":[1]}`), &back))
	require.True(t, math.IsNaN(*back.EvalLoss))
	require.Error(t, json.Unmarshal([]byte(`{"loss":1}`), &back))
}

func TestRowRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64Range(-1e300, 1e300)
		in := Row{rapid.Int64().Draw(t, "step"), f.Draw(t, "loss"), f.Draw(t, "lr"), f.Draw(t, "norm"), rapid.Int64().Draw(t, "tok"), f.Draw(t, "tps"), rapid.Int64().Draw(t, "mem"), f.Draw(t, "sec"), nil, rapid.Float64Range(0, 1).Draw(t, "mfu"), nil}
		if rapid.Bool().Draw(t, "eval") {
			v := f.Draw(t, "eval loss")
			in.EvalLoss = &v
		}
		if more := rapid.MapOfN(rapid.StringMatching(`[a-z"\\]{1,6}_more`), f, 0, 3).Draw(t, "more"); len(more) > 0 {
			in.Add(more)
		}
		text, err := json.Marshal(in)
		require.NoError(t, err)
		var out Row
		require.NoError(t, json.Unmarshal(text, &out))
		require.Equal(t, in, out)
	})
}

func TestMetricsAreFlushedEachStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	m, err := CreateMetrics(path)
	require.NoError(t, err)
	for step := int64(1); step <= 3; step++ {
		require.NoError(t, m.Append(row(step)))
		rows, err := ReadMetricsFile(path)
		require.NoError(t, err)
		require.Len(t, rows, int(step))
		require.Equal(t, row(step), rows[step-1])
	}
	require.ErrorContains(t, m.Append(row(3)), "step 3 follows step 3")
	require.NoError(t, m.Sync())
	require.NoError(t, m.Close())
	_, err = CreateMetrics(path)
	require.ErrorContains(t, err, "another run")
}

// TestResumeAfterEveryTear cuts a file of five rows at each byte and resumes from each checkpoint.
func TestResumeAfterEveryTear(t *testing.T) {
	dir := t.TempDir()
	var whole bytes.Buffer
	var ends []int
	for step := int64(1); step <= 3; step++ {
		text, err := json.Marshal(row(step))
		require.NoError(t, err)
		whole.Write(append(text, '\n'))
		ends = append(ends, whole.Len())
	}
	path := filepath.Join(dir, "metrics.jsonl")
	for size := 0; size <= whole.Len(); size++ {
		complete := int64(0)
		for _, end := range ends {
			if size >= end-1 { // the newline may be missing
				complete++
			}
		}
		checkpoint := int64(size % 4)
		require.NoError(t, os.WriteFile(path, whole.Bytes()[:size], 0o644))
		m, err := ResumeMetrics(path, checkpoint)
		require.NoError(t, err, "size %d", size)
		kept := min(checkpoint, complete)
		require.Equal(t, kept, m.Last())
		require.NoError(t, m.Append(row(checkpoint+1)))
		require.NoError(t, m.file.Close())
		rows, err := ReadMetricsFile(path)
		require.NoError(t, err)
		require.Len(t, rows, int(kept)+1)
		require.Equal(t, checkpoint+1, rows[kept].Step)
	}
}

func TestResumeKeepsWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "metrics.jsonl")
	text := "{\"step\":1}\nnonsense\n{\"step\":2}\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	_, err := ResumeMetrics(path, 2)
	require.ErrorContains(t, err, "line 2 is no row")
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, text, string(got))

	m, err := ResumeMetrics(filepath.Join(dir, "new.jsonl"), 5)
	require.NoError(t, err)
	require.NoError(t, m.Append(row(6)))
	require.NoError(t, m.Close())
}

func TestReadMetrics(t *testing.T) {
	cases := []struct {
		name, text string
		rows       int
		err        string
	}{
		{"empty", "", 0, ""},
		{"blank lines", "\n{\"step\":1}\r\n\n{\"step\":2}\n", 2, ""},
		{"no last newline", "{\"step\":1}", 1, ""},
		{"torn", "{\"step\":1}\n{\"step\":2,\"lo", 1, ""},
		{"torn with zeros", "{\"step\":1}\n{\"st\x00\x00\x00\n\x00\x00", 1, ""},
		{"broken", "{\"step\":1}\n{\n{\"step\":3}\n", 1, "line 2"},
		{"long", strings.Repeat("x", maxRow+1), 0, "longer than"},
		{"wrong type", "{\"step\":\"1\"}\n{\"step\":1}\n", 0, "line 1"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			count, bad := 0, error(nil)
			for _, err := range ReadMetrics(strings.NewReader(tc.text)) {
				if err != nil {
					bad = err
					continue
				}
				count++
			}
			require.Equal(t, tc.rows, count)
			if tc.err == "" {
				require.NoError(t, bad)
			} else {
				require.ErrorContains(t, bad, tc.err)
			}
		})
	}
	_, err := ReadMetricsFile(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzReadMetrics(f *testing.F) {
	f.Add([]byte("{\"step\":1,\"loss\":2.5,\"eval_loss\":null}\n{\"step\":2,\"lo"), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, step int64) {
		var rows []Row
		for r, err := range ReadMetrics(bytes.NewReader(data)) {
			if err != nil {
				return
			}
			rows = append(rows, r)
		}
		path := filepath.Join(t.TempDir(), "m")
		require.NoError(t, os.WriteFile(path, data, 0o644))
		m, err := ResumeMetrics(path, step)
		require.NoError(t, err)
		require.NoError(t, m.file.Close())
		kept, err := ReadMetricsFile(path)
		require.NoError(t, err)
		require.LessOrEqual(t, len(kept), len(rows))
		for _, r := range kept {
			require.LessOrEqual(t, r.Step, step)
		}
	})
}
