// Package trainer runs fine-tuning and pre-training from a typed configuration: it opens the model, plans every step before a weight is
// read, trains, evaluates, saves crash-safely and resumes bit for bit. cmd/trainer is flags around it; Run is the library's door.
package trainer

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// exitError gives an error the program's exit code.
type exitError struct {
	code int
	err  error
}

// Error implements error.
func (e *exitError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

// ExitCode is one of the codes in package trainer/config.
func (e *exitError) ExitCode() int { return e.code }

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	var has interface{ ExitCode() int }
	if errors.As(err, &has) {
		return err
	}
	return &exitError{code, err}
}

// classify gives an error the exit code of its kind, unless it has one.
func classify(err error) error {
	var row *data.RowError
	var budget *plan.BudgetError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &row), errors.Is(err, checkpoint.ErrFormat):
		return withCode(config.ExitInput, err)
	case errors.As(err, &budget):
		return withCode(config.ExitMemory, err)
	case errors.Is(err, checkpoint.ErrDisk):
		return withCode(config.ExitDisk, err)
	}
	return err
}

// badConfig is an error of a setting, with the program's exit code for it.
func badConfig(key, format string, args ...any) error {
	return &config.ErrConfig{Key: key, Reason: fmt.Sprintf(format, args...)}
}

// ErrStopped is returned when the context was cancelled and a durable checkpoint has been written.
var ErrStopped error = &exitError{config.ExitStopped, errors.New("stopped; a durable checkpoint was written")}

// NonFiniteError says that the loss or the gradient of a step is not finite. The weights are those of the step before.
type NonFiniteError struct {
	Step     int
	Loss     float64
	GradNorm float64
	Rows     []string // where the rows of the step come from; if Where says so, those alone whose loss is not finite
	Where    string   // what was found by looking again; empty if nothing was
}

// Error names the step and its rows, and what to try.
func (e *NonFiniteError) Error() string {
	rows := ""
	if len(e.Rows) > 0 {
		rows = fmt.Sprintf("; rows: %v", e.Rows)
	}
	if e.Where != "" {
		rows = "; " + e.Where + rows
	}
	return fmt.Sprintf("step %d: loss %v, gradient norm %v: not finite, nothing was updated%s. Lower train.lr, check those rows and the model's weights, or, with a 16-bit train.dtype, use f32",
		e.Step, e.Loss, e.GradNorm, rows)
}

// ExitCode is config.ExitNonFinite.
func (e *NonFiniteError) ExitCode() int { return config.ExitNonFinite }
