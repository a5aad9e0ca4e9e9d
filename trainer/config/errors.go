package config

import (
	"errors"
	"strconv"
	"strings"
)

// Exit codes of the program. Scripts depend on them.
const (
	ExitOK          = 0   // done
	ExitFailure     = 1   // any failure without a code of its own
	ExitConfig      = 2   // bad flags or configuration
	ExitInput       = 3   // bad input file
	ExitMemory      = 4   // does not fit in memory
	ExitNonFinite   = 5   // the loss or the gradient is not finite
	ExitDisk        = 6   // a file cannot be written
	ExitDistributed = 138 // a fault among the processes; starting again may help
	ExitStopped     = 143 // stopped by a signal, with a durable checkpoint
)

// ErrConfig is one problem of a configuration. Several come joined.
type ErrConfig struct {
	File   string // the YAML file, empty for an override or a default
	Line   int    // 1-based line in File, 0 when unknown
	Key    string // dotted key, empty when the file as a whole is wrong
	Flag   bool   // the value came from the command line
	Reason string // what is wrong and what to do about it
	Err    error  // the cause, when there is one
}

// Error prints "run.yaml:3: adapter.r: reason" or "--adapter.r: reason".
func (e *ErrConfig) Error() string {
	var parts []string
	if e.File != "" {
		where := e.File
		if e.Line > 0 {
			where += ":" + strconv.Itoa(e.Line)
		}
		parts = append(parts, where)
	}
	key := e.Key
	if e.Flag && key != "" && !strings.HasPrefix(key, "--") {
		key = "--" + key
	}
	if key != "" {
		parts = append(parts, key)
	}
	return strings.Join(append(parts, e.Reason), ": ")
}

// Unwrap returns the cause.
func (e *ErrConfig) Unwrap() error { return e.Err }

// ExitCode is ExitConfig.
func (e *ErrConfig) ExitCode() int { return ExitConfig }

// ExitCode maps an error to the program's exit code: that of the first error in its tree with a method ExitCode() int, else
// ExitFailure; ExitOK for nil.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var coded interface {
		error
		ExitCode() int
	}
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return ExitFailure
}
