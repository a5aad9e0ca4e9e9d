package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// peerTime is what another library takes for one call of a row.
type peerTime struct {
	peer    string
	seconds float64
}

// tuned makes glibc keep large blocks instead of returning them to the system: up to ten times faster for PyTorch's results of 32 MiB and
// more. Peers run with it and without, and their better time counts.
var tuned = []string{"MALLOC_MMAP_THRESHOLD_=4294967295", "MALLOC_TRIM_THRESHOLD_=17179869184", "MALLOC_TOP_PAD_=268435456"}

// runPeers adds the peers' times to the figures. What cannot run is noted, it fails nothing.
func (t *table) runPeers(ctx context.Context, o options, figures []*figure, threads int, log io.Writer) {
	if o.python != "" {
		for _, env := range [][]string{nil, tuned} {
			t.note(runPython(ctx, o, env, figures, threads, log))
		}
	}
	if f := find(figures, "mlp"); f != nil && o.python != "" {
		t.note(runGoPeers(ctx, o, f))
	}
	if p, g := find(figures, "smollm2_prompt"), find(figures, "smollm2_text"); o.llamaBench != "" && either(p, g) != nil {
		t.note(runLlamaBench(ctx, o, p, g))
	}
	if f := find(figures, "stories260K"); f != nil {
		t.note(runLlama2C(ctx, o, f))
	}
}

func (t *table) note(texts []string, err error) {
	if err != nil {
		texts = append(texts, err.Error())
	}
	for _, s := range texts {
		if !slices.Contains(t.notes, s) {
			t.notes = append(t.notes, s)
		}
	}
}

func find(figures []*figure, name string) *figure {
	for _, f := range figures {
		if f.row.name == name {
			return f
		}
	}
	return nil
}

// add keeps the least time of each peer.
func (f *figure) add(peer string, seconds float64) {
	for i := range f.peers {
		if f.peers[i].peer == peer {
			f.peers[i].seconds = min(f.peers[i].seconds, seconds)
			return
		}
	}
	f.peers = append(f.peers, peerTime{peer, seconds})
}

// peerLine is one line of peers.py.
type peerLine struct {
	Row, Peer, Error string
	Seconds          float64
	Versions         map[string]string
}

// runPython runs peers.py for the rows of figures.
func runPython(ctx context.Context, o options, env []string, figures []*figure, threads int, log io.Writer) (notes []string, err error) {
	var names []string
	for _, f := range figures {
		names = append(append(names, f.row.name), f.row.alike...)
	}
	slices.Sort(names)
	script := filepath.Join(o.peersDir, "python", "peers.py")
	cmd := exec.CommandContext(ctx, o.python, script, "--threads", strconv.Itoa(threads), "--rows", strings.Join(slices.Compact(names), ","))
	cmd.Env = append(append(os.Environ(), env...), "OMP_NUM_THREADS="+strconv.Itoa(threads))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		var l peerLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			continue // a library talks
		}
		fmt.Fprintf(log, "  peer %s\n", lines.Text())
		notes = append(notes, l.store(figures)...)
	}
	if err := cmd.Wait(); err != nil {
		return notes, fmt.Errorf("peers: %s: %w: %s", script, err, lastLine(stderr.String()))
	}
	return notes, nil
}

// store adds a time to every figure that it is compared with.
func (l *peerLine) store(figures []*figure) []string {
	if l.Versions != nil {
		var all []string
		for _, name := range []string{"torch", "transformers", "peft", "bitsandbytes"} {
			if v := l.Versions[name]; v != "" {
				all = append(all, name+" "+v)
			}
		}
		return []string{"Peers: " + strings.Join(all, ", ") + "."}
	}
	if l.Error != "" {
		return []string{fmt.Sprintf("Peer of %s: %s", l.Row, l.Error)}
	}
	for _, f := range figures {
		if f.row.name == l.Row || slices.Contains(f.row.alike, l.Row) {
			f.add(l.Peer, l.Seconds)
		}
	}
	return nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

var goPeer = regexp.MustCompile(`(?m)^BenchmarkMLPStep/(gorgonia|gomlx)\S*\s+\d+\s+(\d+(?:\.\d+)?) ns/op`)

// runGoPeers runs the benchmark of the module that holds gorgonia and gomlx.
func runGoPeers(ctx context.Context, o options, f *figure) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "xxx", "-bench", "MLPStep", "-benchtime", "1s", "-cpu", strconv.Itoa(f.threads), ".")
	cmd.Dir = o.peersDir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("peers: gorgonia and gomlx: %w: %s", err, lastLine(string(out)))
	}
	found := goPeer.FindAllStringSubmatch(string(out), -1)
	if found == nil {
		return nil, fmt.Errorf("peers: gorgonia and gomlx: no figure in what go test printed: %s", lastLine(string(out)))
	}
	for _, m := range found {
		ns, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, err
		}
		f.add(m[1], ns/1e9)
	}
	return nil, nil
}

var llama2Speed = regexp.MustCompile(`achieved tok/s: ([0-9.]+)`)

// runLlama2C builds llama2.c and takes the best of ten runs, by the figure that it prints itself.
func runLlama2C(ctx context.Context, o options, f *figure) ([]string, error) {
	source := o.llama2c
	dir, err := storiesDir()
	if err != nil {
		return nil, fmt.Errorf("llama2.c: %w", err)
	}
	if source == "" {
		source = filepath.Join(dir, "..", "..", "peers", "llama2.c", "run.c")
	}
	temp, err := os.MkdirTemp("", "llama2c")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	bin := filepath.Join(temp, "run")
	if out, err := exec.CommandContext(ctx, "gcc", "-O3", "-march=native", "-o", bin, source, "-lm").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("llama2.c: building: %w: %s", err, lastLine(string(out)))
	}
	for range 10 {
		out, err := exec.CommandContext(ctx, bin, filepath.Join(dir, "stories260K.bin"), "-z", filepath.Join(dir, "tok512.bin"), "-t", "0", "-n",
			strconv.Itoa(storyTokens)).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("llama2.c: %w: %s", err, lastLine(string(out)))
		}
		m := llama2Speed.FindSubmatch(out)
		if m == nil {
			return nil, fmt.Errorf("llama2.c: no figure in %q", lastLine(string(out)))
		}
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return nil, err
		}
		f.add("llama2.c", storyTokens/v)
	}
	return nil, nil
}
