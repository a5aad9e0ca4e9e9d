// Command gemmgen writes the amd64 assembly of packages device/cpu/gemm and device/cpu/vec and the Go declarations of it.
//
// The output is checked in, so users of the module need no generator. From the folder of this module:
//
//	go run ./gemmgen        # rewrites kernel_amd64.s and stub_amd64_gen.go in both packages
//	go run ./gemmgen -check # fails if the files differ from what would be written
//
//go:generate go run . -dir ../../device/cpu
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

func main() {
	dir := flag.String("dir", filepath.Join("..", "device", "cpu"), "folder that holds gemm and vec")
	check := flag.Bool("check", false, "compare with the files instead of writing them")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "gemmgen:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	files, err := generate()
	if err != nil {
		return err
	}
	for name, want := range files {
		path := filepath.Join(dir, name)
		if !check {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, want, 0o644); err != nil {
				return err
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s is not what the generator writes; run go run ./gemmgen in the tools folder", path)
		}
	}
	return nil
}

// generate returns the files' contents by path.
func generate() (map[string][]byte, error) {
	files := map[string][]byte{}
	err := errors.Join(
		emit(files, "gemm", tileAVX2, tileAVX512, int8AVX2, int8AVX512, laneSums, dotInt8, transpose8Rows, transpose6Rows, dot, dot4, axpy, axpy4),
		emit(files, "vec", widenBF16, widenF16, narrowBF16, narrowF16, exp, expSum, sigmoid, silu, geluTanh),
	)
	return files, err
}

func emit(files map[string][]byte, pkg string, functions ...func(*build.Context)) error {
	c := build.NewContext()
	c.ConstraintExpr("amd64,!noasm")
	for _, f := range functions {
		f(c)
	}
	f, err := c.Result()
	if err != nil {
		return err
	}
	if err := pass.Compile.Execute(f); err != nil {
		return err
	}
	cfg := printer.Config{Name: "tools/gemmgen", Pkg: pkg}
	asm, err1 := printer.NewGoAsm(cfg).Print(f)
	stub, err2 := printer.NewStubs(cfg).Print(f)
	files[filepath.Join(pkg, "kernel_amd64.s")] = asm
	files[filepath.Join(pkg, "stub_amd64_gen.go")] = stub
	return errors.Join(err1, err2)
}
