package cpu

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/flash"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// Describe implements device.Describer.
func (d *Device) Describe() []device.Fact {
	f32, bf16, int8 := gemm.Describe()
	facts := []device.Fact{
		{Topic: "processor", Text: modelName()},
		{Topic: "instructions", Text: isa.String() + forced()},
		{Topic: "threads", Text: fmt.Sprintf("%d%s", d.threads, heldTo())},
		{Topic: "large pages", Text: largePages("/sys/kernel/mm/transparent_hugepage/enabled")},
		{Topic: "products, float32", Text: f32},
		{Topic: "products, bfloat16", Text: bf16},
		{Topic: "products, int8", Text: int8},
		{Topic: "4-bit weights", Text: isa.Best().String() + ", decoded while packed; products of few rows from the codes"},
		{Topic: "attention", Text: flash.Describe()},
		{Topic: "pointwise, norms, optimizers", Text: isa.Best().String()},
	}
	return facts
}

// forced tells when the environment chose the instructions.
func forced() string {
	if v := os.Getenv("BYES_CPU"); v != "" {
		return " (BYES_CPU=" + v + ")"
	}
	return ""
}

// heldTo tells what holds the number of threads down.
func heldTo() string {
	text := fmt.Sprintf(" of %d processors that this process may use", runtime.NumCPU())
	if l := cpuLimit("/"); !math.IsInf(l, 1) {
		text += fmt.Sprintf("; a control group allows the time of %.4g", l)
	}
	if v := os.Getenv("GOMAXPROCS"); v != "" {
		text += "; GOMAXPROCS=" + v
	}
	return text
}

// largePages reads the setting in brackets, as in "always [madvise] never".
func largePages(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(b), "[")
	set, _, ok := strings.Cut(rest, "]")
	if !ok {
		return "unknown"
	}
	return set
}
