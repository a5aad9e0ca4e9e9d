// Command asmgen writes the amd64 assembly of the CPU kernels and the Go declarations of it.
//
// The output is checked in, so users of the module need no generator. From the folder of this module:
//
//	go run ./asmgen        # rewrites every file of the table outputs
//	go run ./asmgen -check # fails if the files differ from what would be written
//
//go:generate go run . -root ../..
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

// output is one pair of generated files: FILE_amd64.s and FILE_amd64_gen.go.
type output struct {
	file      string // folder and first part of the name, from the root of the repository
	functions []func(*build.Context)
}

// outputs is everything that is generated. A file of this program writes the functions of one row.
var outputs = []output{
	{"internal/isa/cpuid", []func(*build.Context){cpuid}},
	{"device/cpu/gemm/tile", []func(*build.Context){tileAVX2, tileAVX512, tilePackAVX512, tileTurn("tileTurnEvenAVX512", 0), tileTurn("tileTurnOddAVX512", 1), tileBF16}},
	{"device/cpu/gemm/int8", []func(*build.Context){int8AVX2, int8AVX512, laneSums, panelRowsInt8, panelColsInt8, wideColsInt8, dotInt8}},
	{"device/cpu/gemm/pack", []func(*build.Context){transpose8Rows, transpose6Rows}},
	{"device/cpu/gemm/vector", []func(*build.Context){dot, dot4, axpy, axpy4}},
	{"device/cpu/vec/convert", []func(*build.Context){widenBF16, widenF16, narrowBF16, narrowF16, widenBF16Wide, widenF16Wide, narrowBF16Wide, narrowF16Wide}},
	{"internal/probe/loops", []func(*build.Context){
		probeFMA(probeYMM), probeRead(probeYMM), probeCopy(probeYMM), probeFMA(probeZMM), probeRead(probeZMM), probeCopy(probeZMM), probeDot8, probeDotBF16,
	}},
	{"device/cpu/pool/pause", []func(*build.Context){pause}},
	{"device/cpu/step/update", updates()},
	{"device/cpu/step/update8", updates8()},
	{"device/cpu/step/gradient", gradients()},
	{"quant/dynamic8", []func(*build.Context){encode8AVX512, encode8AVX2, decode8VBMI, decode8AVX512, decode8AVX2}},
	{"quant/maxima", []func(*build.Context){maxima, reciprocals}},
	{"quant/encode4", []func(*build.Context){encodeNF4AVX512, encodeFP4AVX512, encodeNF4AVX2, encodeFP4AVX2}},
	{"quant/rows8", []func(*build.Context){limits, rowCodes, productRow, outlierRow}},
	{"quant/formats", []func(*build.Context){decodeInt, encodeAffine, encodeStochastic, encodeFloat8}},
	{"device/cpu/vec/arith", []func(*build.Context){formulas("arith", arithmetic)}},
	{"device/cpu/vec/func", []func(*build.Context){formulas("func", transcendental), expSum}},
	{"device/cpu/vec/random", []func(*build.Context){random}},
	{"internal/fourbit/decode", append(both(restoreScales, eachDType(dtypes, blockTables), eachDType(dtypes[1:], tablePairs), ordinary, nearTables,
		decode32, decode32Stream, decode16, decode16Stream), streamFence)},
	{"internal/fourbit/strips", both(eachDType(dtypes, packLanes), eachDType(dtypes, packFew), eachDType(dtypes, packRows))},
	{"internal/fourbit/dot", both(dots, sumRows)},
	{"device/cpu/gemm/panels", []func(*build.Context){panelRowsF32, panelRowsBF16, panelRowsF16, panelColsF32, panelColsBF16, panelColsF16, panelColsPairs}},
	{"device/cpu/gemm/dots", []func(*build.Context){dotsF32, dotsBF16, dotsF16}},
	{"device/cpu/vec/sums", []func(*build.Context){sums}},
	{"device/cpu/vec/rows", []func(*build.Context){rows}},
	{"device/cpu/flash/tile", []func(*build.Context){flash256.outer, flash512.outer, flash256.inner, flash512.inner}},
	{"device/cpu/flash/rows", []func(*build.Context){declareExp2, flash256.softmax, flash512.softmax, flash256.slopes, flash512.slopes,
		flash256.hide, flash512.hide, flash256.scale, flash512.scale, flash256.lse, flash512.lse}},
	{"device/cpu/flash/pack", []func(*build.Context){columnsTo8, columnsTo4, flash256.cut, flash512.cut, dotRows}},
	{"device/cpu/flash/few", []func(*build.Context){flash256.dots, flash512.dots, flash256.weigh, flash512.weigh}},
	{"device/cpu/vec/transpose", []func(*build.Context){transposeTiles}},
	{"device/cpu/flash/wide", []func(*build.Context){flash256.widenRows("BF16"), flash256.widenRows("F16"), flash512.widenRows("BF16"), flash512.widenRows("F16")}},
}

func main() {
	root := flag.String("root", "..", "root of the repository")
	check := flag.Bool("check", false, "compare with the files instead of writing them")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "asmgen:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	files := map[string][]byte{}
	for _, o := range outputs {
		if err := emit(files, o); err != nil {
			return fmt.Errorf("%s: %w", o.file, err)
		}
	}
	for name, want := range files {
		at := filepath.Join(root, filepath.FromSlash(name))
		if !check {
			if err := write(at, want); err != nil {
				return err
			}
			continue
		}
		got, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s is not what the generator writes; run go run ./asmgen in the tools folder", at)
		}
	}
	return nil
}

func write(at string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.WriteFile(at, content, 0o644)
}

// emit adds the two files of o.
func emit(files map[string][]byte, o output) error {
	c := build.NewContext()
	c.ConstraintExpr("amd64,!noasm")
	for _, f := range o.functions {
		f(c)
	}
	f, err := c.Result()
	if err != nil {
		return err
	}
	if err := pass.Compile.Execute(f); err != nil {
		return err
	}
	cfg := printer.Config{Name: "tools/asmgen", Pkg: path.Base(path.Dir(o.file))}
	asm, err1 := printer.NewGoAsm(cfg).Print(f)
	stub, err2 := printer.NewStubs(cfg).Print(f)
	files[o.file+"_amd64.s"], files[o.file+"_amd64_gen.go"] = asm, stub
	return errors.Join(err1, err2)
}
