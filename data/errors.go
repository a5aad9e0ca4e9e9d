package data

import (
	"errors"
	"fmt"
)

// RowError says what is wrong with an input file, where, and what to do about it.
type RowError struct {
	File   string
	Line   int // counted from 1; 0 when the error is about the whole file
	Reason string
	Err    error // the cause, if another error
}

// Error returns "file:line: reason".
func (e *RowError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
}

// Unwrap returns the cause.
func (e *RowError) Unwrap() error { return e.Err }

// ErrUntrained is the cause of a RowError about a row that has no token to train on.
var ErrUntrained = errors.New("no token to train on")

// untrainedErr is a row that would teach nothing.
func (r *Row) untrainedErr(format string, args ...any) error {
	return &RowError{File: r.File, Line: r.Line, Reason: fmt.Sprintf(format, args...), Err: ErrUntrained}
}

func rowErr(file string, line int, format string, args ...any) *RowError {
	return &RowError{File: file, Line: line, Reason: fmt.Sprintf(format, args...)}
}
