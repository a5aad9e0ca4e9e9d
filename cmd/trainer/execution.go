package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// executionFlags are where a command computes and how, by the names that a run's settings have.
func executionFlags(f *pflag.FlagSet, device *string, e *trainer.Execution) {
	f.StringVar(device, "device", "auto", "auto (the first GPU, else the processor), cpu, cpu:threads=2, cuda, cuda:1")
	e.Launch = plan.Launchings[plan.Captured]
	f.Var((*launchFlag)(&e.Launch), "launch", "how launches reach a GPU: "+strings.Join(plan.Launchings, ", ")+
		"; synced waits for each, so that a fault is reported with its op")
	f.BoolVar(&e.Deterministic, "deterministic", false, "the same bits on every repetition")
	f.BoolVar(&e.TF32, "tf32", false, "products of float32 may round their operands, where the device can")
}

// launchFlag takes the names of ways to launch: a command that opens no device in the end refuses others too.
type launchFlag string

func (l *launchFlag) String() string { return string(*l) }

// Type is what help calls the value.
func (l *launchFlag) Type() string { return "string" }

func (l *launchFlag) Set(name string) error {
	if _, err := plan.ParseLaunching(name); err != nil {
		return err
	}
	*l = launchFlag(name)
	return nil
}

// runKeys are keys of a run that flags of the other commands have without their section.
var runKeys = map[string]string{"train.launch": "launch", "train.tf32": "tf32"}

// flagName lets the other commands take what messages and configurations of runs call a setting.
func flagName(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if short, ok := runKeys[name]; ok {
		name = short
	}
	return pflag.NormalizedName(name)
}
