// Command trainer fine-tunes and pre-trains language models. It is flags around package trainer; `trainer COMMAND --help` says what
// each command takes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // the devices this program can use
	_ "github.com/bitsandbyes/bitsandbyes/device/cuda"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/preview"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

func main() {
	os.Exit(run(untilSignal(context.Background()), os.Args[1:], os.Stdout, os.Stderr))
}

// rootUsage says what scripts depend on.
const rootUsage = `Fine-tune language models: LoRA, 4-bit weights, 8-bit optimizers, in one binary.

Exit codes: 0 done; 2 bad flags or configuration; 3 bad input file; 4 does not fit in memory; 5 a loss, gradient or score is not finite; 6 a file
cannot be written; 138 a fault among processes, starting again may help; 143 stopped by a signal, training with a durable checkpoint;
1 any other failure.`

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p := &program{in: os.Stdin, out: stdout, err: stderr}
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintln(stderr, "trainer:", err)
	}
	return exitCode(err)
}

// root is the command with all others in it.
func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "trainer",
		Short:         "Fine-tune language models: LoRA, 4-bit weights, 8-bit optimizers, in one binary",
		Long:          rootUsage,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.AddCommand(p.finetune(), p.pretrain(), p.generate(), p.plan(), p.data(), p.profile(), p.bench(), p.verify(), p.inspect(), p.presets(), p.quantize(), p.dequantize(), p.export(), p.doctor(), p.eval(), p.merge())
	root.SetGlobalNormalizationFunc(flagName)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(suggestFlag(cmd, err)) })
	return root
}

// suggestFlag adds the flag that was most likely meant to the error about one that is unknown.
func suggestFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if best := config.Closest(unknown.GetSpecifiedName(), names); best != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, best)
	}
	return fmt.Errorf("%w; `%s --help` lists the flags", err, cmd.CommandPath())
}

// once is a flag that is given at most once where other commands take several, so that none is dropped in silence.
type once struct {
	to  *string
	set bool
	why string
}

// Set implements pflag.Value.
func (o *once) Set(s string) error {
	if o.set {
		return fmt.Errorf("it is given twice: %s", o.why)
	}
	*o.to, o.set = s, true
	return nil
}

// String implements pflag.Value.
func (o *once) String() string { return "" }

// Type implements pflag.Value.
func (o *once) Type() string { return "string" }

// program is where a command reads and writes.
type program struct {
	in       io.Reader
	out, err io.Writer
}

// errSilent fails without a message: everything was said already.
var errSilent = errors.New("")

// silentCode is errSilent with an exit code.
type silentCode int

// Error is empty: everything was said already.
func (silentCode) Error() string { return "" }

// Is makes it errSilent.
func (silentCode) Is(target error) bool { return target == errSilent }

// ExitCode is the code.
func (c silentCode) ExitCode() int { return int(c) }

// stopped gives the end of a command by a signal its exit code and a sentence.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	return stopError{err}
}

// stopError is a command that a signal ended; it has nothing that would have to be kept.
type stopError struct{ error }

// Error says so.
func (stopError) Error() string { return "stopped by a signal" }

// ExitCode is config.ExitStopped.
func (stopError) ExitCode() int { return config.ExitStopped }

// Unwrap returns the cause.
func (e stopError) Unwrap() error { return e.error }

// usage marks an error of the command line.
func usage(err error) error { return &config.ErrConfig{Reason: err.Error()} }

func exitCode(err error) int {
	if err != nil && config.ExitCode(err) == config.ExitFailure && isUnknownCommand(err) {
		return config.ExitConfig
	}
	return config.ExitCode(err)
}

// isUnknownCommand recognises cobra's own errors of the command line, which have no type.
func isUnknownCommand(err error) bool {
	text := err.Error()
	for _, begin := range []string{"unknown command", "unknown flag", "unknown shorthand", "required flag", "if any flags in the group"} {
		if len(text) >= len(begin) && text[:len(begin)] == begin {
			return true
		}
	}
	return false
}

func (p *program) logger() *slog.Logger {
	f, ok := p.err.(*os.File)
	return slog.New(tint.NewTextHandler(p.err, &tint.Options{NoColor: !ok || !report.IsTerminal(f), TimeFormat: time.TimeOnly}))
}

func (p *program) terminal() bool {
	f, ok := p.err.(*os.File)
	return ok && report.IsTerminal(f)
}

// text is where a model's words go: standard output, and if that is a terminal, without what would steer it.
func (p *program) text() io.Writer {
	if f, ok := p.out.(*os.File); ok && report.IsTerminal(f) {
		return visible{f}
	}
	return p.out
}

// visible writes text for a terminal.
type visible struct{ w io.Writer }

func (v visible) Write(text []byte) (int, error) {
	if _, err := io.WriteString(v.w, preview.Visible(string(text))); err != nil {
		return 0, err
	}
	return len(text), nil
}
