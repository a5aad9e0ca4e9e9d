//go:build !amd64 || noasm

package isa

func detect() (most Level, has, fast features) { return Generic, features{}, features{} }

func l2() int { return 0 }
