package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// keep appends figures to a file, so that a run that is cut short keeps what it measured.
func keep(path string, figures []figure) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for _, x := range figures {
		line, err := json.Marshal(x)
		if err == nil {
			_, err = f.Write(append(line, '\n'))
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

func read(path string) ([]figure, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []figure
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; lines.Scan(); n++ {
		var f figure
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		out = append(out, f)
	}
	return out, lines.Err()
}

// of returns the figure of a row and a framework.
func of(all []figure, name, peer string) (figure, bool) {
	for _, f := range all {
		if f.Row == name && f.Peer == peer {
			return f, true
		}
	}
	return figure{}, false
}

// printTable writes Markdown. Memory counts what was allocated at most; in brackets the context, libraries, kernels and graphs beside it.
func printTable(w io.Writer, all []figure) {
	fmt.Fprint(w, "| work | here | MFU | memory | planned | peers | times as fast |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		here, ok := of(all, r.name, "here")
		if !ok {
			continue
		}
		var peers, ratio []string
		for _, f := range all {
			if f.Row != r.name || f.Peer == "here" {
				continue
			}
			peers = append(peers, f.Peer+" "+f.text(r))
			if f.Error == "" {
				ratio = append(ratio, fmt.Sprintf("%.2f", times(here, f, r)))
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", r.label, here.speed(r), percent(here.MFU), here.memory(), gb(here.Planned),
			strings.Join(peers, "; "), strings.Join(ratio, "; "))
	}
}

func times(here, f figure, r row) float64 {
	if r.generates {
		return f.PerTok / here.PerTok
	}
	return here.Tokens / f.Tokens
}

func (f figure) speed(r row) string {
	if r.generates {
		return fmt.Sprintf("%.2f ms/token", f.PerTok)
	}
	return fmt.Sprintf("%.0f tok/s", f.Tokens)
}

func (f figure) text(r row) string {
	if f.Error != "" {
		return "failed: " + strings.ReplaceAll(f.Error, "\n", " ")
	}
	if f.Memory == 0 {
		return f.speed(r)
	}
	return f.speed(r) + ", " + f.memory()
}

func (f figure) memory() string {
	if f.Beside == 0 {
		return gb(f.Memory)
	}
	return fmt.Sprintf("%s (+%s)", gb(f.Memory), gb(f.Beside))
}

func gb(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

func percent(share float64) string {
	if share == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f%%", 100*share)
}

// draw writes the pictures of tokens/s and of memory, of the rows that a peer has too.
func draw(dir string, all []figure) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var both []row
	for _, r := range rows {
		if r.peers && !r.generates {
			if _, ok := of(all, r.name, "here"); ok {
				both = append(both, r)
			}
		}
	}
	speed := bars(all, both, "tokens/s", func(f figure) float64 { return f.Tokens })
	memory := bars(all, both, "GB allocated at most", func(f figure) float64 { return float64(f.Memory) / 1e9 })
	return errors.Join(speed.Write(filepath.Join(dir, "trainings-speed.png")), memory.Write(filepath.Join(dir, "trainings-memory.png")))
}

func bars(all []figure, rows []row, label string, value func(figure) float64) report.Bars {
	b := report.Bars{YLabel: label}
	for _, r := range rows {
		b.Groups = append(b.Groups, r.name)
	}
	for _, peer := range []string{"here", "hf", "liger", "unsloth"} {
		s := report.BarSeries{Name: peer, Values: make([]float64, len(rows))}
		found := false
		for i, r := range rows {
			if f, ok := of(all, r.name, peer); ok && f.Error == "" {
				s.Values[i], found = value(f), true
			}
		}
		if found {
			b.Series = append(b.Series, s)
		}
	}
	return b
}
