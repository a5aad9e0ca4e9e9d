package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/preview"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

const dataUsage = `Show what a run would train on, before it does. No weight is read and nothing is written.

Prints rows as the model sees them, chat template included, with the tokens that are trained in green (between ⟦ and ⟧ where
there is no terminal, or with NO_COLOR set); counts of tokens, the share that is trained, a histogram of lengths; rows that are cut, equal
or of no use; and what about the data or the template would hurt. Exit code 3 when training would stop: a row that cannot be used, or
nothing to train on. docs/guides/data.md explains formats and masks.

  trainer data run.yaml                                       the rows of a run
  trainer data --model ./model --data.path rows.jsonl --rows=10
  trainer data run.yaml --row=17 --json                       one row with its token ids

Flags of this command:
  --rows N      rows that are shown (default 3; 0 for none)
  --row K       show row K alone, counted from 1
  --json        print JSON

  trainer data [finetune|pretrain]`

func (p *program) data() *cobra.Command {
	return &cobra.Command{
		Use:                "data [finetune|pretrain] [run.yaml] [overrides]",
		Short:              "Show what a run would train on: rows with their trained tokens marked, counts, problems",
		Long:               dataUsage + trainUsage,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args := ofCommand(args)
			cfg, given, stop, err := p.configure(cmd, name, args, map[string]bool{"rows": true, "row": true, "json": false})
			if err != nil || stop {
				return err
			}
			o, asJSON, err := parseDataFlags(given)
			if err != nil {
				return err
			}
			r, err := preview.Run(cmd.Context(), cfg, o, p.logger())
			if err != nil {
				return err
			}
			if asJSON {
				err = p.json(r)
			} else {
				err = r.WriteText(p.out, preview.TextOptions{Colour: p.colour()})
			}
			if err == nil && !r.Usable() {
				err = silentCode(config.ExitInput)
			}
			return err
		},
	}
}

// colour reports whether text on stdout may have colours: see https://no-color.org.
func (p *program) colour() bool {
	f, ok := p.out.(*os.File)
	return ok && report.IsTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func parseDataFlags(args []string) (o preview.Options, asJSON bool, err error) {
	set := pflag.NewFlagSet("data", pflag.ContinueOnError)
	set.IntVar(&o.Rows, "rows", preview.DefaultRows, "")
	set.IntVar(&o.Row, "row", 0, "")
	set.BoolVar(&asJSON, "json", false, "")
	if err := set.Parse(args); err != nil {
		return o, false, usage(err)
	}
	if o.Rows < 0 || o.Row < 0 || set.Changed("row") && o.Row == 0 {
		return o, false, usage(errors.New("--rows is from 0, --row from 1"))
	}
	if o.Rows == 0 {
		o.Rows = -1
	}
	return o, asJSON, nil
}
