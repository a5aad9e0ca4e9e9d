package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

const chatHelp = `a line is a turn; end it with \ to go on in the next
/system TEXT   begin anew, with this for the model to know first
/reset         begin anew
/undo          take the last question and its answer back
/adapter NAME  answer with that adapter from now on; none is the model alone; without a name, list them
/save FILE     write the conversation as a line of JSON
/exit          end, as Ctrl-D does; Ctrl-C stops an answer
//TEXT         say a text that begins with a slash
`

// talk is a conversation at a terminal or over pipes.
type talk struct {
	*program
	w       *trainer.Writer
	chat    *trainer.Chat
	prompts bool             // questions are typed at a terminal: a prompt stands before them
	signals <-chan os.Signal // an interrupt stops an answer, any other ends the program
	lines   <-chan string
	readErr error // why lines ended; read after they have
}

// chat talks until the input ends.
func (p *program) chat(ctx context.Context, w *trainer.Writer, o generateFlags) error {
	if err := ctx.Err(); err != nil { // while the model was read
		return err
	}
	c, err := w.NewChat(o.system)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, endings()...)
	defer signal.Stop(signals)
	in, ok := p.in.(*os.File)
	t := &talk{program: p, w: w, chat: c, prompts: ok && report.IsTerminal(in) && p.terminal(), signals: signals}
	over := make(chan struct{})
	defer close(over)
	t.read(over)
	if t.prompts {
		fmt.Fprintf(p.err, "%s, adapter %s, context of %d tokens; /help lists the commands\n", o.Model, w.Using(), w.Context())
	}
	return t.run(context.WithoutCancel(ctx)) // an interrupt, which ends other commands, stops an answer only
}

// read sends the lines of the input until it ends, or the talk is over.
func (t *talk) read(over <-chan struct{}) {
	lines := make(chan string)
	t.lines = lines
	go func() {
		defer close(lines)
		in := bufio.NewReader(t.in)
		text := ""
		for {
			line, err := in.ReadString('\n')
			if len(text)+len(line) > maxTurn {
				t.readErr = fmt.Errorf("a turn has more than %d bytes", maxTurn)
				return
			}
			whole := strings.TrimRight(line, "\r\n")
			if more, ok := strings.CutSuffix(whole, `\`); ok && err == nil {
				text += more + "\n"
				continue
			}
			if text += whole; text != "" {
				select {
				case lines <- text:
				case <-over:
					return
				}
			}
			if text = ""; err != nil {
				if !errors.Is(err, io.EOF) {
					t.readErr = err
				}
				return
			}
		}
	}()
}

// maxTurn bounds a turn; no context holds more.
const maxTurn = 16 << 20

func (t *talk) run(ctx context.Context) error {
	for {
		if t.prompts {
			fmt.Fprint(t.err, "> ")
		}
		select {
		case line, ok := <-t.lines:
			if !ok {
				return t.readErr
			}
			end, err := t.line(ctx, line)
			if err != nil || end {
				return err
			}
		case s := <-t.signals:
			if s != os.Interrupt || !t.prompts {
				return silentCode(config.ExitStopped)
			}
			fmt.Fprintln(t.err, "\n/exit or Ctrl-D ends")
		}
	}
}

// line answers one line. What is wrong with a turn is said, and at a terminal the talk goes on.
func (t *talk) line(ctx context.Context, line string) (end bool, err error) {
	switch rest, isText := strings.CutPrefix(line, "//"); {
	case strings.TrimSpace(line) == "":
		return false, nil
	case isText:
		err = t.say(ctx, "/"+rest)
	case strings.HasPrefix(line, "/"):
		end, err = t.command(line)
	default:
		err = t.say(ctx, line)
	}
	if err == nil || !t.prompts || errors.Is(err, errSilent) {
		return end, err
	}
	fmt.Fprintln(t.err, err)
	return false, nil
}

// say answers a turn until an interrupt.
func (t *talk) say(ctx context.Context, text string) error {
	ctx, stop := context.WithCancel(ctx)
	done, over := make(chan struct{}), make(chan os.Signal, 1)
	go func() {
		defer close(over)
		select {
		case s := <-t.signals:
			over <- s
			stop()
		case <-done:
		}
	}()
	began := time.Now()
	a, err := t.chat.Say(ctx, text, func(s string) error {
		_, err := fmt.Fprint(t.text(), s)
		return err
	})
	close(done)
	s := <-over
	stop()
	if a.Text != "" {
		fmt.Fprintln(t.out)
	}
	switch {
	case s != nil && s != os.Interrupt:
		return silentCode(config.ExitStopped)
	case s != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(t.err, "stopped")
		return nil
	case err != nil:
		return err
	}
	if a.Text == "" {
		fmt.Fprintln(t.out)
	}
	if took := time.Since(began).Seconds(); t.prompts && took > 0 {
		fmt.Fprintf(t.err, "[%d tokens, %.1f a second; %d of %d read anew; %s]\n", a.Tokens, float64(a.Tokens)/took, a.PromptTokens-a.Reused, a.PromptTokens, a.Finish)
	}
	return nil
}

// command does what a line that begins with a slash says.
func (t *talk) command(line string) (end bool, err error) {
	name, arg, _ := strings.Cut(line[1:], " ")
	arg = strings.TrimSpace(arg)
	switch name {
	case "exit", "quit":
		return true, nil
	case "help":
		fmt.Fprint(t.err, chatHelp)
	case "reset":
		t.chat.Reset()
	case "system":
		t.chat.System(arg)
	case "undo":
		if !t.chat.Undo() {
			fmt.Fprintln(t.err, "there is no turn to take back")
		}
	case "save":
		if arg == "" {
			return false, usage(errors.New("/save needs the name of a file"))
		}
		if err := t.chat.Save(nil, arg); err != nil {
			return false, err
		}
		fmt.Fprintln(t.err, "saved:", arg)
	case "adapter":
		if arg == "" {
			fmt.Fprintf(t.err, "in use: %s; there are: %s\n", t.w.Using(), strings.Join(append(t.w.Adapters(), trainer.NoAdapter), ", "))
			return false, nil
		}
		return false, t.w.Use(arg)
	default:
		return false, usage(fmt.Errorf("there is no command /%s; /help lists them, and //%s says that text", name, line[1:]))
	}
	return false, nil
}
