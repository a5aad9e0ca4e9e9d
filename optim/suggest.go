package optim

import (
	"fmt"
	"strings"
)

// didYouMean names the nearest of the words when it is near.
func didYouMean(word string, words []string) string {
	best, at := 3, ""
	for _, w := range words {
		if d := distance(strings.ToLower(word), w); d < best {
			best, at = d, w
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", at)
}

// distance is the number of letters to insert, delete or replace (Levenshtein 1966). Words beyond 40 letters are far from all.
func distance(a, b string) int {
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
