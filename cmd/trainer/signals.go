package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// endings are the signals that ask the program to end: Ctrl-C, what batch systems and supervisors send, and the terminal's end, unless
// the program was started to outlive it (nohup).
func endings() []os.Signal {
	s := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// untilSignal returns a context that the first of the endings cancels. A second Ctrl-C or SIGTERM ends the program at once, unless something
// else waits for it, as a chat does. A second SIGHUP changes nothing, since one closed terminal sends several: the kernel's and the shell's.
func untilSignal(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	once, hangups := make(chan os.Signal, 1), make(chan os.Signal, 1)
	for _, s := range endings() {
		if s == syscall.SIGHUP {
			signal.Notify(hangups, s)
		} else {
			signal.Notify(once, s)
		}
	}
	go func() {
		select {
		case <-once:
		case <-hangups:
		}
		signal.Stop(once) // not signal.Reset, which would take the signals from others too
		cancel()
	}()
	return ctx
}

// outlivePipes lets the program go on when what reads its output has ended: a run whose `| tee log` is gone, which one Ctrl-C at a terminal
// ends together with it, would otherwise be killed by its next line, and without a checkpoint. It holds until the program ends, so that the
// line about an error leaves the exit code alone too.
func outlivePipes() { signal.Ignore(syscall.SIGPIPE) }
