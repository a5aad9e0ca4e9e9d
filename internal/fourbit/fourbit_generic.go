//go:build !amd64 || noasm

package fourbit

import (
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Without assembly nothing is fast.

func lanesOf(isa.Level) int { return 0 }

func restoreFast(isa.Level, []float32, []byte, *[256]float32, float32, float32) int { return 0 }

func tablesFast(isa.Level, []Table, []float32, *[16]float32, tensor.DType, bool) bool { return false }

func wordsFast(isa.Level, []uint32, []byte, []Table, int, bool) bool { return false }

func fenceFast() {}

func halvesFast(isa.Level, []uint16, []byte, []Table, int, bool) bool { return false }

func (p *piece) whole(isa.Level, int, int) {}

func (p *piece) few(isa.Level, int, int) {}

func (p *piece) rows(isa.Level, int, int, int, int) {}

func dotFast(isa.Level, *dotArgs, int) bool { return false }

func sumFast(isa.Level, *sumArgs) bool { return false }

func dotScaledFast(isa.Level, *scaledArgs, int, tensor.DType) bool { return false }
