// Package jinja interprets Jinja templates as chat templates use them: the language of jinja2 with trim_blocks and
// lstrip_blocks, loop controls, an immutable sandbox, and the additions of transformers (tojson without HTML escapes,
// raise_exception, strftime_now, {% generation %}).
//
// A template comes from a stranger, inside a model's folder. It is therefore run by an interpreter of its own, over a closed set
// of values that reach nothing outside themselves, and every run ends within budgets on steps, depth, allocated bytes and output.
// There are no loaders: a chat template stands alone.
package jinja

import (
	"fmt"
	"math"
	"time"
)

// Limits bound one rendering. A zero field takes its default.
type Limits struct {
	// Steps counts evaluated nodes, visited elements and every 32 bytes looked through. Default: 2,000,000 and one for each
	// byte of the context.
	Steps int
	// Depth counts nested expressions, blocks and macro calls. Default: 1,000.
	Depth int
	// Alloc counts bytes of all strings and lists made on the way, freed or not. Default: 64 MiB and 32 for each byte of the
	// context.
	Alloc int
	// Output bounds the bytes of the text. Default: 64 MiB.
	Output int
}

const (
	defaultSteps  = 2_000_000
	defaultDepth  = 1000
	defaultAlloc  = 64 << 20
	defaultOutput = 64 << 20

	// maxSource bounds a template's own length; the longest published ones have some 30 kB.
	maxSource = 1 << 20
	// maxNesting bounds blocks and brackets inside each other while parsing.
	maxNesting = 200
	// maxRange is the longest range of jinja2's sandbox.
	maxRange = 100_000
)

// Options say how a template is named in errors and run.
type Options struct {
	// Name stands before line and column in errors; empty: "template".
	Name string
	// Now is the clock of strftime_now; nil: time.Now.
	Now    func() time.Time
	Limits Limits
}

// Template is a parsed template. It may be rendered by many goroutines at once.
type Template struct {
	name       string
	body       []stmt
	generation bool
	now        func() time.Time
	limits     Limits
}

// Span is a range of bytes of a rendering, Start included, End not.
type Span struct{ Start, End int }

// Result is one rendering.
type Result struct {
	Text string
	// Generated are the ranges that {% generation %} blocks wrote, in order, without empty ones.
	Generated []Span
	// Unplaced is set where a generation block wrote into a value (a captured block, a macro called inside an expression), so
	// that its place in Text is not known and Generated is incomplete.
	Unplaced bool
}

// Parse reads a template. The error is an *Error.
func Parse(source string, o Options) (*Template, error) {
	t := &Template{name: o.Name, now: o.Now, limits: o.Limits}
	if t.name == "" {
		t.name = "template"
	}
	if t.now == nil {
		t.now = time.Now
	}
	p, err := newParser(t.name, source)
	if err != nil {
		return nil, err
	}
	if t.body, err = p.template(); err != nil {
		return nil, err
	}
	t.generation = p.generation
	return t, nil
}

// HasGeneration says whether the template has a {% generation %} block.
func (t *Template) HasGeneration() bool { return t.generation }

// Budget is what several renderings may take together, in the units of Limits. Each takes its part off.
type Budget struct{ Steps, Alloc int }

// NewBudget allows for what n renderings (at least one) of a context may take at most.
func (t *Template) NewBudget(n int, context *Dict) *Budget {
	l := newMachine(t, context).limits
	return &Budget{Steps: n * min(l.Steps, math.MaxInt/n), Alloc: n * min(l.Alloc, math.MaxInt/n)}
}

// Render runs the template with the entries of context as its variables. The error is an *Error.
func (t *Template) Render(context *Dict) (Result, error) { return t.RenderWithin(nil, context) }

// RenderWithin is Render with a budget that other renderings share; nil for none.
func (t *Template) RenderWithin(b *Budget, context *Dict) (Result, error) {
	m := newMachine(t, context)
	var err error
	if b != nil {
		m.limits.Steps, m.limits.Alloc = min(m.limits.Steps, b.Steps), min(m.limits.Alloc, b.Alloc)
		defer func() { b.Steps, b.Alloc = b.Steps-m.steps, b.Alloc-m.alloc }()
		if err = m.scan(size(context)); err != nil { // handing it over is work too, where there are many renderings
			return Result{}, at(t.name, pos{1, 1}, err)
		}
	}
	if _, err = m.block(t.body, &scope{}); err != nil {
		return Result{}, err
	}
	return Result{Text: string(m.out.buf), Generated: m.out.spans, Unplaced: m.unplaced}, nil
}

// Error is what is wrong with a template, or what its text ran into.
type Error struct {
	Name      string
	Line, Col int
	Reason    string
	// Remedy says what to do; it may be empty.
	Remedy string
	// Raised is set where the template itself refused its input by raise_exception; Reason is its message.
	Raised bool
	// Budget is set where a limit ended the rendering.
	Budget bool
}

// Error gives name, line, column, reason and remedy.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s:%d:%d: ", e.Name, e.Line, e.Col)
	if e.Raised {
		s += "the template refuses its input: "
	}
	s += e.Reason
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// fault is an error on its way to its position.
type fault struct {
	reason, remedy string
	raised, budget bool
}

func (f *fault) Error() string { return f.reason }

func faultf(format string, a ...any) error { return &fault{reason: fmt.Sprintf(format, a...)} }

// pos is a place in the source, both from 1; columns count characters.
type pos struct{ line, col int }

// at gives err its place, unless it has one from deeper inside.
func at(name string, p pos, err error) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *Error:
		return e
	case *fault:
		return &Error{Name: name, Line: p.line, Col: p.col, Reason: e.reason, Remedy: e.remedy, Raised: e.raised, Budget: e.budget}
	default:
		return &Error{Name: name, Line: p.line, Col: p.col, Reason: err.Error()}
	}
}
