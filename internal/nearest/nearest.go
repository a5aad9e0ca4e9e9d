// Package nearest finds the name that was most likely meant by a misspelt one, for messages.
package nearest

import "strings"

// Of returns the name nearest to got, in any case of letters, if it is at most `within` edits away; else "".
func Of(got string, names []string, within int) string {
	best := ""
	for _, n := range names {
		if len(got) > len(n)+within {
			continue
		}
		if d := Distance(strings.ToLower(got), strings.ToLower(n)); d <= within {
			best, within = n, d-1
		}
	}
	return best
}

// Distance is the optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
func Distance(a, b string) int {
	if a == b {
		return 0
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(last[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
