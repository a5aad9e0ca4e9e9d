// Package preview shows what a run would train on, before it does: rows as tokens with those that are trained marked, counts, and
// whatever about the data would hurt. It reads no weight.
package preview

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Options of Run. The zero value shows DefaultRows rows from the front.
type Options struct {
	Rows int // examples shown from the front; 0 = DefaultRows, negative = none
	Row  int // above 0: show this example alone, counted from 1
}

// DefaultRows is how many examples are shown.
const DefaultRows = 3

// maxBad is how many rows that cannot be used are named.
const maxBad = 10

// Report is what was found.
type Report struct {
	data.Report
	Model    string            `json:"model"`
	Template string            `json:"template,omitempty"` // the chat template at hand, used or not
	Inputs   []data.FileInfo   `json:"inputs"`
	Packed   bool              `json:"packed"`   // several examples share a row
	HeldOut  int               `json:"held_out"` // examples kept for evaluation, of those counted or from files of their own
	Problems []trainer.Problem `json:"problems"`
	BadRows  []BadRow          `json:"bad_rows"` // the first of them
	Shown    []Row             `json:"shown"`
	Seconds  float64           `json:"seconds"` // to read, tokenise and count
}

// BadRow is a row that training would stop at.
type BadRow struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// Row is an example as the model sees it.
type Row struct {
	Number  int     `json:"row"` // counted from 1
	Source  string  `json:"source"`
	Side    string  `json:"side,omitempty"` // of a pair: chosen or rejected
	Trained int     `json:"trained"`
	Tokens  []Token `json:"tokens"`
}

// Token is one token of a row.
type Token struct {
	ID      int32  `json:"id"`
	Text    string `json:"text"` // "" for the first tokens of a character that is spread over several
	Trained bool   `json:"trained"`
}

// Usable reports whether a run would start: something is trained, and no row stops it.
func (r *Report) Usable() bool { return r.Trained > 0 && r.Bad == 0 }

// Run reads the rows as a run with this configuration would. Rows that cannot be used are collected, not errors. Errors carry exit codes
// as those of trainer.Run do.
func Run(ctx context.Context, cfg config.Config, o Options, log *slog.Logger) (r *Report, err error) {
	began := time.Now()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := trainer.OpenModel(cfg.Model, trainer.ModelOptions{Seed: cfg.Train.Seed, NewTokens: cfg.Data.NewTokens, Beside: cfg.Adapter.InitDir()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	dir, err := os.MkdirTemp("", "trainer-data-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, held, err := trainer.DataFiles(vfs.OS{}, cfg, dir)
	if err != nil {
		return nil, err
	}
	r = &Report{Model: cfg.Model, Problems: []trainer.Problem{}, BadRows: []BadRow{}, Shown: []Row{}}
	do, err := m.DataOptions(cfg)
	if err != nil {
		return nil, err
	}
	do.SpillDir = dir
	do.OnBadRow = func(e *data.RowError) error {
		if len(r.BadRows) < maxBad {
			r.BadRows = append(r.BadRows, BadRow{e.File, e.Line, e.Reason})
		}
		return nil
	}
	if do.SeqLen < cfg.Data.SeqLen && log != nil {
		log.Warn("data.seq_len is beyond the model's context; shortened", "seq_len", cfg.Data.SeqLen, "context", do.SeqLen)
	}
	set, err := data.Load(ctx, trainer.NewEncoder(m.Tokenizer), files, do)
	if err != nil {
		if len(r.BadRows) > 0 {
			return r, nil
		}
		return nil, trainer.DataError(cfg, err)
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	if err := r.fill(ctx, cfg, m, set, held, do); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(began).Seconds()
	return r, r.show(m.Tokenizer, set, o)
}

// fill counts.
func (r *Report) fill(ctx context.Context, cfg config.Config, m *trainer.Model, set *data.Set, held []data.File, o data.Options) error {
	r.Report, r.Inputs = set.Report(), set.Files()
	problems, err := m.DataProblems(set, o)
	if err != nil {
		return trainer.DataError(cfg, err)
	}
	r.Problems = append(r.Problems, problems...)
	if tr, ok := o.Renderer.(*data.TemplateRenderer); ok {
		r.Template = tr.Template().Name()
	}
	if len(held) == 0 {
		train, part, err := set.Split(cfg.Data.Val, cfg.Train.Seed)
		if err != nil {
			return &config.ErrConfig{Key: "data.val", Reason: err.Error()}
		}
		if part != nil {
			r.HeldOut = part.Len()
		}
		return r.pack(cfg, m, train, o)
	}
	if err := r.pack(cfg, m, set, o); err != nil {
		return err
	}
	part, err := data.Load(ctx, trainer.NewEncoder(m.Tokenizer), held, o)
	if err != nil {
		return trainer.DataError(cfg, err)
	}
	r.HeldOut = part.Len()
	counts := part.Report()
	r.Bad, r.ZeroLabel = r.Bad+counts.Bad, r.ZeroLabel+counts.ZeroLabel // a run stops at these too
	return part.Close()
}

// pack tells how full the rows are that the run makes of its examples.
func (r *Report) pack(cfg config.Config, m *trainer.Model, train *data.Set, o data.Options) error {
	if train.Len() == 0 {
		return nil
	}
	l, err := data.NewLoader(train, m.LoaderOptions(cfg, o.SeqLen))
	if err != nil {
		return &config.ErrConfig{Key: "data", Reason: err.Error()}
	}
	p := l.Report()
	r.Packed, r.PackedRows, r.Efficiency, r.TrainedSpace = cfg.Data.Pack && !train.Pairs(), p.PackedRows, p.Efficiency, p.TrainedSpace
	return nil
}

// show takes the tokens of some examples apart.
func (r *Report) show(tok tokenizer.Tokenizer, set *data.Set, o Options) error {
	first, n := 0, o.Rows
	if n == 0 {
		n = DefaultRows
	}
	if o.Row > 0 {
		if first, n = o.Row-1, 1; first >= set.Len() {
			return &config.ErrConfig{Key: "row", Flag: true, Reason: fmt.Sprintf("is %d, the data has %d", o.Row, set.Len())}
		}
	}
	for i := first; i < min(first+n, set.Len()); i++ {
		sides := []string{""}
		if set.Pairs() {
			sides = []string{"chosen", "rejected"}
		}
		for s, side := range sides {
			var e data.Example
			var err error
			if s == 0 {
				e, err = set.Example(i)
			} else {
				var p data.Pair
				p, err = set.Pair(i)
				e = p.Rejected
			}
			if err != nil {
				return err
			}
			r.Shown = append(r.Shown, rowOf(tok, e, i+1, side))
		}
	}
	return nil
}

func rowOf(tok tokenizer.Tokenizer, e data.Example, number int, side string) Row {
	row := Row{Number: number, Source: e.Source, Side: side, Tokens: make([]Token, len(e.IDs))}
	var stream *tokenizer.Stream
	if tok != nil {
		stream = tokenizer.NewStream(tok, tokenizer.DecodeOptions{})
	}
	for i, id := range e.IDs {
		t := Token{ID: id, Trained: e.Labels[i] != data.Ignore}
		if stream != nil {
			t.Text = stream.Push(id)
		} else {
			t.Text = fmt.Sprintf("%d ", id)
		}
		if t.Trained {
			row.Trained++
		}
		row.Tokens[i] = t
	}
	if stream != nil && len(row.Tokens) > 0 {
		row.Tokens[len(row.Tokens)-1].Text += stream.Flush()
	}
	return row
}
