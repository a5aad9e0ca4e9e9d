// Package kernels holds the CUDA C++ sources of the device's kernels. They include no header: prelude.cuh, which stands before each of
// them, has the types and helpers.
package kernels

import "embed"

// Files are the sources.
//
//go:embed *.cu *.cuh
var Files embed.FS
