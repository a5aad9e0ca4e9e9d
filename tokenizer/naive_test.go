package tokenizer

import "strings"

// naiveMerge joins by looking at every pair each time, as the definition of BPE says.
func naiveMerge(ids []int32, r ranker) []int32 {
	ids = append([]int32{}, ids...)
	for {
		best, at := uint64(noMerge), -1
		for i := range len(ids) - 1 {
			if rule := r.rule(ids[i], ids[i+1]); rule>>32 < best>>32 {
				best, at = rule, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = int32(uint32(best))
		ids = append(ids[:at+1], ids[at+2:]...)
	}
}

// naiveLlama2C follows the steps of llama2.c's encode on strings and scores, with no shared code.
func naiveLlama2C(t *Llama2C, text string) []int32 {
	ids := []int32{1}
	if text != "" {
		ids = append(ids, t.ids[" "])
	}
	for _, char := range strings.Split(text, "") {
		if id, ok := t.ids[char]; ok {
			ids = append(ids, id)
			continue
		}
		for _, b := range []byte(char) {
			ids = append(ids, int32(b)+3)
		}
	}
	for {
		best, at, to := ^uint32(0), -1, int32(0)
		for i := range len(ids) - 1 {
			if id, ok := t.ids[t.tokens[ids[i]]+t.tokens[ids[i+1]]]; ok && t.ranks[id] < best {
				best, at, to = t.ranks[id], i, id
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = to
		ids = append(ids[:at+1], ids[at+2:]...)
	}
}
