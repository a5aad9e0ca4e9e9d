package trainer

import "strings"

// stopper passes text on until one of its stop strings occurs, which may be spread over several pieces. What may become the beginning of
// one is held back.
type stopper struct {
	stops []string
	held  string
}

// push adds text and returns what is certain to come before any stop, and whether one occurred: what follows is dropped.
func (s *stopper) push(text string) (out string, stopped bool) {
	s.held += text
	first := -1
	for _, stop := range s.stops {
		if i := strings.Index(s.held, stop); i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	if first >= 0 {
		out, s.held = s.held[:first], ""
		return out, true
	}
	keep := 0
	for _, stop := range s.stops {
		for n := min(len(stop)-1, len(s.held)); n > keep; n-- {
			if strings.HasSuffix(s.held, stop[:n]) {
				keep = n
			}
		}
	}
	out, s.held = s.held[:len(s.held)-keep], s.held[len(s.held)-keep:]
	return out, false
}

// flush returns what was held back, at the end of the text.
func (s *stopper) flush() string {
	out := s.held
	s.held = ""
	return out
}
