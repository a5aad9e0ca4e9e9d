package data

import "math"

// uneven reports whether any file's weight is not 1.
func (st *store) uneven() bool {
	for _, f := range st.files {
		if f.Weight != 1 {
			return true
		}
	}
	return false
}

// parts calls f for each file that has rows in the set: every row is seen whole times an epoch, and rest of them once more.
func (s *Set) parts(f func(file int, rows []int32, whole, rest int)) {
	for lo := 0; lo < len(s.rows); {
		file, hi := s.st.docs[s.rows[lo]].file, lo
		for hi < len(s.rows) && s.st.docs[s.rows[hi]].file == file {
			hi++
		}
		whole, frac := math.Modf(s.st.files[file].Weight)
		f(int(file), s.rows[lo:hi], int(whole), int(math.Round(frac*float64(hi-lo))))
		lo = hi
	}
}

// weigh lists the rows of an epoch, file by file; which rows make up a fractional part depends on the seed and the epoch.
func (s *Set) weigh(seed uint64, epoch int) []int32 {
	var out []int32
	s.parts(func(file int, rows []int32, whole, rest int) {
		for range whole {
			out = append(out, rows...)
		}
		if rest == 0 {
			return
		}
		extra := make([]bool, len(rows))
		for _, i := range permute(keyOf(seed, saltShare+uint64(file)<<8, uint64(epoch)), len(rows))[:rest] {
			extra[i] = true
		}
		for i, id := range rows {
			if extra[i] {
				out = append(out, id)
			}
		}
	})
	return out
}
