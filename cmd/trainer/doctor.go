package main

import (
	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/trainer/doctor"
)

func (p *program) doctor() *cobra.Command {
	var o doctor.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Show processor, memory, devices, kernels chosen and disk speed, and what would hurt a run",
		Long: `Look at this machine as training will find it: devices and what they reach, memory, the kernels that were chosen, the disk. Whatever
would hurt a run is listed at the end with its remedy. It takes about two seconds and 64 MiB of the disk for a moment; --quick
measures nothing. Exit code 1 when something was found.`,
		Args: takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := doctor.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = p.json(r)
			} else {
				err = r.WriteText(p.out)
			}
			if err == nil && len(r.Findings) > 0 {
				err = errSilent
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", ".", "where runs will be written: its disk is measured")
	f.BoolVar(&o.Quick, "quick", false, "measure nothing")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
