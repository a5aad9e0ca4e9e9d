package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// peerFigure is a line of benchmarks/peers/python/cuda_kernels.py.
type peerFigure struct {
	Work   string  `json:"work"`
	Detail string  `json:"detail"`
	Peer   string  `json:"peer"`
	Micros float64 `json:"us"`
	Error  string  `json:"error"`
}

// readPeers reads the peers' figures, one JSON object a line; other lines are skipped.
func readPeers(path string) ([]peerFigure, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []peerFigure
	for i, line := range strings.Split(string(raw), "\n") {
		if !strings.HasPrefix(line, `{"work"`) {
			continue
		}
		var f peerFigure
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no figures: it must be the output of benchmarks/peers/python/cuda_kernels.py", path)
	}
	return out, nil
}

// print writes a Markdown table.
func (r *result) print(w io.Writer, peers []peerFigure) {
	fmt.Fprintf(w, "%s: %.0f GB/s copied, %.0f TFLOP/s bf16\n\n| work | | µs | rate | of the limit | peer | times as fast |\n|---|---|---|---|---|---|---|\n",
		r.Device, r.CopyGB, r.Gemm)
	for _, f := range r.Rows {
		if f.Error != "" {
			fmt.Fprintf(w, "| %s | %s | %s | | | %s | |\n", f.Work, f.Detail, strings.ReplaceAll(f.Error, "\n", " "), beside(f, peers, false))
			continue
		}
		rate, share := "", ""
		if f.GBs > 0 {
			rate = fmt.Sprintf("%.0f GB/s", f.GBs)
		} else if f.TFlops > 0 {
			rate = fmt.Sprintf("%.0f TFLOP/s", f.TFlops)
		}
		if f.Share > 0 {
			share = fmt.Sprintf("%.0f%%", 100*f.Share)
		}
		note := ""
		if !f.Captured {
			note = ", not recorded"
		}
		fmt.Fprintf(w, "| %s | %s%s | %.2f | %s | %s | %s | %s |\n", f.Work, f.Detail, note, f.Micros, rate, share, beside(f, peers, false),
			beside(f, peers, true))
	}
}

// beside lists the peers' times of a row, or how many times ours is as fast.
func beside(f figure, peers []peerFigure, ratio bool) string {
	var out []string
	for _, p := range peers {
		switch {
		case p.Work != f.Work || p.Detail != f.Detail:
		case p.Error != "" && !ratio:
			out = append(out, p.Peer+": "+p.Error)
		case p.Error != "":
		case ratio:
			out = append(out, fmt.Sprintf("%.2f", p.Micros/f.Micros))
		default:
			out = append(out, fmt.Sprintf("%.2f µs %s", p.Micros, p.Peer))
		}
	}
	return strings.Join(out, "; ")
}

// write writes the figures as JSON.
func (r *result) write(path string) error {
	if path == "" {
		return nil
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

// read reads what write wrote.
func read(path string) (*result, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &result{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
