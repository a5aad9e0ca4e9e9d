//go:build amd64 && !noasm

package isa

import "golang.org/x/sys/cpu"

// detect returns the highest level of this processor, its features, and those that are worth using.
func detect() (most Level, has, fast features) {
	x := &cpu.X86
	if !x.HasAVX2 || !x.HasFMA || !x.HasF16C {
		return Generic, features{}, features{}
	}
	if !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL || !x.HasAVX512CD {
		return AVX2, features{}, features{}
	}
	has = features{vnni: x.HasAVX512VNNI, bf16: x.HasAVX512BF16, vbmi: x.HasAVX512VBMI}
	fast = has
	fast.bf16 = has.bf16 && vendor() != "GenuineIntel"
	return AVX512, has, fast
}

// vendor is the processor's twelve-letter maker, leaf 0 of CPUID.
func vendor() string {
	var word [3]uint32
	cpuid(0, &word)
	b := make([]byte, 0, 12)
	for _, w := range word {
		b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	return string(b)
}

// l2 is the size of a core's second cache in bytes, from leaf 80000006 of CPUID, which both makers fill in.
func l2() int {
	var word [3]uint32
	cpuid(0x80000006, &word)
	return int(word[2]>>16) << 10
}
