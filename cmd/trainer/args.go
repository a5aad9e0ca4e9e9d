package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// takes is how many arguments a command has besides its flags, from least to most. hint tells what somebody meant who gives others.
func takes(least, most int, hint string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		what := fmt.Sprintf("arguments needed besides flags: %d, given: %d", least, len(args))
		if len(args) > most {
			what = fmt.Sprintf("%q is not expected", strings.Join(args[most:], " "))
		}
		if hint != "" {
			what += " (" + hint + ")"
		}
		return usage(fmt.Errorf("%s; usage: trainer %s", what, cmd.Use))
	}
}
