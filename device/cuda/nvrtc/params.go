package nvrtc

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// Params are the sizes in bytes of the parameters of each kernel in a CUBIN, by the kernel's name. It is nil for other images, as PTX is. The
// driver tells the same one by one, and how many there are only by an error, which tools report as one of the program.
//
// A CUBIN has a section .nv.info.KERNEL of records: a byte for the format, one for the attribute, two of value or, in format 4, of length. The attribute
// 0x17 describes a parameter in 12 bytes: 4 that are not used, its number (2), its offset (2), and a word with the size from bit 18 on. The layout is that of
// compilers of CUDA 12 and 13; what does not fit it leaves the kernel out.
func Params(image []byte) map[string][]int {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil || f.Machine != elf.Machine(190) { // EM_CUDA
		return nil
	}
	out := map[string][]int{}
	for _, s := range f.Sections {
		kernel, ok := strings.CutPrefix(s.Name, ".nv.info.")
		if !ok || kernel == "" || s.Size > uint64(len(image)) {
			continue
		}
		info, err := s.Data()
		if err != nil {
			continue
		}
		if sizes, ok := paramSizes(info); ok {
			out[kernel] = sizes
		}
	}
	return out
}

// paramSizes reads the records of a kernel; false where they are not as described.
func paramSizes(info []byte) ([]int, bool) {
	const sized, param, paramBytes = 4, 0x17, 12
	found := map[int]int{}
	for len(info) > 0 {
		if len(info) < 4 {
			return nil, false
		}
		format, attribute, n := info[0], info[1], int(binary.LittleEndian.Uint16(info[2:]))
		info = info[4:]
		if format != sized {
			continue
		}
		if n > len(info) {
			return nil, false
		}
		if attribute == param {
			if n != paramBytes {
				return nil, false
			}
			found[int(binary.LittleEndian.Uint16(info[4:]))] = int(binary.LittleEndian.Uint32(info[8:]) >> 18)
		}
		info = info[n:]
	}
	sizes := make([]int, len(found))
	for i := range sizes {
		size, ok := found[i]
		if !ok || size == 0 {
			return nil, false
		}
		sizes[i] = size
	}
	return sizes, true
}
