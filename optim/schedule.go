package optim

import (
	"fmt"
	"math"
	"strings"
)

// Schedule is the learning rate as a pure function of the step. The zero Kind is constant.
type Schedule struct {
	Kind   string  // constant, linear or cosine
	LR     float64 // the highest rate
	Warmup float64 // below 1 a share of Total, rounded up, else steps
	Total  int     // steps of the run
}

// schedules are the shapes after the warm-up: the share of the rate left at progress x in [0, 1).
var schedules = map[string]func(x float64) float64{
	"":         func(float64) float64 { return 1 },
	"constant": func(float64) float64 { return 1 },
	"linear":   func(x float64) float64 { return 1 - x },
	"cosine":   func(x float64) float64 { return (1 + math.Cos(math.Pi*x)) / 2 },
}

// ScheduleNames lists the kinds.
func ScheduleNames() []string { return []string{"constant", "cosine", "linear"} }

// Check returns what is wrong with the schedule.
func (s Schedule) Check() error {
	switch {
	case schedules[s.Kind] == nil:
		return fmt.Errorf("schedule %q is unknown%s; there are: %s", s.Kind, didYouMean(s.Kind, ScheduleNames()),
			strings.Join(ScheduleNames(), ", "))
	case !(s.LR >= 0) || math.IsInf(s.LR, 1):
		return fmt.Errorf("the learning rate %v must be a number that is not negative", s.LR)
	case !(s.Warmup >= 0) || math.IsInf(s.Warmup, 1):
		return fmt.Errorf("the warm-up %v must be a share below 1 or a number of steps", s.Warmup)
	case s.Total < 0:
		return fmt.Errorf("%d steps in all is negative", s.Total)
	}
	return nil
}

// WarmupSteps is the number of steps of the warm-up, at most Total.
func (s Schedule) WarmupSteps() int {
	w := s.Warmup
	if w < 1 {
		w = math.Ceil(w * float64(s.Total))
	}
	if !(w >= 0) {
		return 0
	}
	return int(min(w, float64(max(s.Total, 0))))
}

// At is the learning rate of step 0 to Total-1. With w steps of warm-up it is
//
//	LR·(step+1)/w                        for step < w: the first step has a rate and step w-1 has LR
//	LR·f((step-w)/(Total-w))             after, f(x) = 1, 1-x or (1+cos πx)/2
//
// so that step w has LR and the rate would reach 0 at step Total. Later steps get the rate of that point; an unknown kind gets 0.
func (s Schedule) At(step int) float64 {
	f := schedules[s.Kind]
	if f == nil {
		return 0
	}
	w := s.WarmupSteps()
	if step < w {
		return s.LR * (float64(max(step, 0)+1) / float64(w))
	}
	return s.LR * f(min(float64(step-w)/float64(max(s.Total-w, 1)), 1))
}

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
