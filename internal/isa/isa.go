// Package isa says which instruction sets the kernels of the processor may use. It is decided once, before main, from the
// processor and from the environment variable BYES_CPU, and never changes: the bits of a result can depend on it.
//
// BYES_CPU is for tests and for comparing: a level, optionally followed by features to leave out or to force, separated by commas.
//
//	BYES_CPU=generic            no assembly at all
//	BYES_CPU=avx2               AVX2, FMA and F16C
//	BYES_CPU=avx512,-vnni       AVX-512, without VNNI
//	BYES_CPU=avx512,+bf16       VDPBF16PS also where it is slower than float32 (Intel)
//
// The cache of go test does not see the variable: add -count=1.
//
// A build with the tag noasm, and any other processor than amd64, is always generic.
package isa

import (
	"fmt"
	"os"
	"strings"
)

// Level is a set of instructions; a higher one contains the lower ones.
type Level uint8

// The levels.
const (
	Generic Level = iota // pure Go
	AVX2                 // AVX2, FMA and F16C
	AVX512               // AVX-512 F, BW, DQ, VL and CD
)

// Levels are all levels in ascending order.
var Levels = []Level{Generic, AVX2, AVX512}

// String returns the word that BYES_CPU takes.
func (l Level) String() string {
	if l > AVX512 {
		return "unknown"
	}
	return [...]string{"generic", "avx2", "avx512"}[l]
}

// features are what is in use beside the level.
type features struct{ vnni, bf16, vbmi bool }

var (
	level  Level
	use    features
	envErr error
)

func init() { level, use, envErr = choose(os.Getenv("BYES_CPU")) }

// Best is the level in use.
func Best() Level { return level }

// Has reports whether loops of level l may run here. BYES_CPU lowers it too.
func Has(l Level) bool { return l <= level }

// VNNI reports whether AVX512-VNNI (VPDPBUSD on 512 bits) may be used.
func VNNI() bool { return use.vnni }

// VBMI reports whether AVX512-VBMI (VPERMB, VPERMI2B) may be used.
func VBMI() bool { return use.vbmi }

// BF16 reports whether VDPBF16PS and VCVTNE2PS2BF16 may be used and are worth it: Intel's processors take twice as long for the
// dot product as for two float32 FMAs of the same work, AMD's half as long.
func BF16() bool { return use.bf16 }

// L2 is the size of a core's second cache in bytes, 1 MiB where it is not known.
func L2() int {
	if n := l2(); n > 0 {
		return n
	}
	return 1 << 20
}

// Err says what is wrong with BYES_CPU, nil if nothing is. Where it is not nil the variable is ignored.
func Err() error { return envErr }

// String describes what is in use: "avx512 +vnni +vbmi".
func String() string {
	s := level.String()
	for _, f := range fields(&use) {
		if *f.on {
			s += " +" + f.name
		}
	}
	return s
}

type field struct {
	name string
	on   *bool
}

func fields(f *features) []field {
	return []field{{"vnni", &f.vnni}, {"bf16", &f.bf16}, {"vbmi", &f.vbmi}}
}

// choose applies the variable to what the processor has.
func choose(env string) (Level, features, error) {
	most, has, fast := detect()
	if env == "" {
		return most, fast, nil
	}
	l, f, err := parse(env, most, has, fast)
	if err != nil {
		return most, fast, fmt.Errorf("BYES_CPU=%q: %w", env, err)
	}
	return l, f, nil
}

// parse reads the variable. has are the features of the processor, fast those that are used unasked.
func parse(env string, most Level, has, fast features) (Level, features, error) {
	words := strings.Split(env, ",")
	l, err := parseLevel(words[0])
	if err != nil {
		return 0, features{}, err
	}
	if l > most {
		return 0, features{}, fmt.Errorf("this processor or build has no %v; the most it has is %v", l, most)
	}
	if l < AVX512 {
		has, fast = features{}, features{}
	}
	for _, w := range words[1:] {
		if err := setFeature(w, has, &fast); err != nil {
			return 0, features{}, err
		}
	}
	return l, fast, nil
}

func parseLevel(word string) (Level, error) {
	for _, l := range Levels {
		if word == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is no level; want generic, avx2 or avx512, then features such as -vnni or +bf16 after commas", word)
}

// setFeature applies "+name" or "-name".
func setFeature(word string, has features, f *features) error {
	if len(word) < 2 || word[0] != '+' && word[0] != '-' {
		return fmt.Errorf("%q is no feature; want + or - before vnni, bf16 or vbmi", word)
	}
	in, out := fields(&has), fields(f)
	for i := range out {
		if out[i].name != word[1:] {
			continue
		}
		if word[0] == '+' && !*in[i].on {
			return fmt.Errorf("%s: this processor, build or level does not have it", word)
		}
		*out[i].on = word[0] == '+'
		return nil
	}
	return fmt.Errorf("%q is no feature; want + or - before vnni, bf16 or vbmi", word)
}
