package chat

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
)

// Segment is a piece of a rendering that belongs to one message.
type Segment struct {
	Start, End int
	// Role and Index are those of the message.
	Role  string
	Index int
	// Generated is set for what the model writes at inference: the assistant's text and the marker that ends its turn, without the
	// header before it and without white space after the marker.
	Generated bool
}

// SegmentError says at which turn the text of a conversation could not be taken apart.
type SegmentError struct {
	Template string
	Index    int
	Role     string
	Reason   string
}

// Error names template, turn, reason and remedy.
func (e *SegmentError) Error() string {
	return fmt.Sprintf("%s: turn %d (%s): %s; mark the assistant's text in the template with {%% generation %%}, or train on one turn a row",
		e.Template, e.Index, e.Role, e.Reason)
}

// Segments renders a whole conversation (AddGenerationPrompt is not looked at) and says which bytes are whose. The segments lie end
// to end over the text, in the order of the messages; a message has none, one, or several.
//
// Where the template has generation blocks they decide what is generated. Otherwise an assistant's turn begins where the rendering
// of the messages before it, with the generation prompt, ends, and ends where the rendering up to it ends. A template need not keep
// to that: what it writes for earlier turns may differ from what it wrote when they were last. Then the text itself is found, by a
// rendering in which each message's content is a word that occurs nowhere else. Where both ways fail the error is a *SegmentError.
//
// All renderings together have the budget of some: a template that is slow on purpose, or a long conversation whose every turn it writes
// otherwise, ends in a *jinja.Error with Budget set.
func (t *Template) Segments(in Input) (Rendering, []Segment, error) {
	in.AddGenerationPrompt = false
	budget := t.t.NewBudget(segmentRenderings, t.context(in))
	whole, err := t.render(in, budget)
	if err != nil {
		return Rendering{}, nil, err
	}
	s := &splitter{t: t, in: in, budget: budget, text: whole.Text, n: len(in.Messages),
		boundAfter: map[string]int{}, endAfter: map[string]int{}, startBefore: map[string]int{}}
	s.findContents()
	s.findBounds()
	spans := whole.Generated
	if !t.HasGeneration() || whole.Unplaced {
		spans, err = s.replies()
	}
	if s.spent != nil {
		err = fmt.Errorf("the %d turns were rendered one by one to find their places: %w", s.n, s.spent)
	}
	if err != nil {
		return whole, nil, err
	}
	return whole, s.cut(spans), nil
}

// segmentRenderings is how many of the largest renderings Segments may take the time of: about a second. Usual templates take a
// thousandth of one for a conversation.
const segmentRenderings = 8

// splitter takes one conversation's text apart.
type splitter struct {
	t      *Template
	in     Input
	budget *jinja.Budget
	spent  error // of the rendering for which the budget did not suffice
	text   string
	n      int
	// contents are where each message's content stands in text; nil where that is not known.
	contents []*Span
	// bounds[i] is where message i begins; bounds[n] is the end.
	bounds []int
	// prefixes[i] is the length of the rendering of the first i messages: 0 where there is none, -1 where text does not begin with it.
	// ok[i] says that message i may begin there.
	prefixes []int
	ok       []bool
	// Turns of the same roles with the same text between their contents are divided alike, so that long conversations are not
	// rendered once a turn. Each map has, by gap, how far a border is from the end of the content before it, or from the start of
	// the one after it.
	boundAfter, endAfter, startBefore map[string]int
}

// gap is what stands between the contents of messages i-1 and i, with their roles; ok is false where a content is not known.
func (s *splitter) gap(i int) (key string, ok bool) {
	if i < 1 || i >= s.n || s.contents[i-1] == nil || s.contents[i] == nil {
		return "", false
	}
	between := s.text[s.contents[i-1].End:s.contents[i].Start]
	return Role(s.in.Messages[i-1]) + "\x00" + Role(s.in.Messages[i]) + "\x00" + between, true
}

// word stands for the content of message i. Its characters are of a private area, so that no case mapping changes them.
func word(i int) string {
	var b strings.Builder
	b.WriteRune('\uE0F0')
	for _, d := range fmt.Sprint(i) {
		b.WriteRune('\uE0F1' + d - '0')
	}
	b.WriteRune('\uE0FF')
	return b.String()
}

// disguised is the message with word(i) as its content, and that content; ok is false for a message without a text.
func disguised(m Value, i int) (Value, string, bool) {
	d, _ := m.(*jinja.Dict)
	v, _ := d.Get("content")
	if list, ok := v.(*jinja.List); ok && len(list.Items) == 1 {
		part, ok := list.Items[0].(*jinja.Dict)
		if !ok {
			return m, "", false
		}
		v, _ = part.Get("text")
		part = part.Clone()
		part.Set("text", jinja.String(word(i)))
		list = &jinja.List{Items: []Value{part}}
		d = d.Clone()
		d.Set("content", list)
	} else {
		d = d.Clone()
		d.Set("content", jinja.String(word(i)))
	}
	text, ok := v.(jinja.String)
	if !ok || strings.TrimSpace(string(text)) == "" {
		return m, "", false
	}
	return d, string(text), true
}

// findContents renders the conversation with a word in place of each content and lays the result over the text: what stands
// between the words must be there literally, and each word stands for the content, trimmed or cut as templates do it.
func (s *splitter) findContents() {
	s.contents = make([]*Span, s.n)
	in, texts := s.in, make([]string, s.n)
	in.Messages = make([]Value, s.n)
	for i, m := range s.in.Messages {
		in.Messages[i], texts[i], _ = disguised(m, i)
	}
	r, err := s.renderInput(in)
	if err != nil || strings.ContainsRune(s.text, '\uE0F0') {
		return
	}
	found, pos, rest := make([]*Span, s.n), 0, r.Text
	for i, text := range texts {
		if text == "" {
			continue
		}
		// A second such word would stand in what is before another, which the text does not hold.
		before, after, there := strings.Cut(rest, word(i))
		if !there || !strings.HasPrefix(s.text[pos:], before) {
			return
		}
		pos += len(before)
		next := after
		if k := strings.IndexRune(after, '\uE0F0'); k >= 0 {
			next = after[:k]
		}
		part, ok := standsAt(s.text[pos:], text, next)
		if !ok {
			return
		}
		found[i] = &Span{Start: pos, End: pos + len(part)}
		pos, rest = pos+len(part), after
	}
	if s.text[pos:] == rest {
		s.contents = found
	}
}

// standsAt finds the form in which a content stands at the start of text, before next.
func standsAt(text, content, next string) (string, bool) {
	forms := []string{content, strings.TrimSpace(content), strings.TrimLeft(content, " \t\r\n"), strings.TrimRight(content, " \t\r\n")}
	if i := strings.LastIndex(content, "</think>"); i >= 0 {
		answer := content[i+len("</think>"):]
		forms = append(forms, answer, strings.TrimLeft(answer, "\n"), strings.TrimSpace(answer))
	}
	for _, f := range forms {
		if strings.HasPrefix(text, f) && strings.HasPrefix(text[len(f):], next) {
			return f, true
		}
	}
	return "", false
}

// findBounds finds where each message begins: at the end of the rendering of those before it, or after their last content.
func (s *splitter) findBounds() {
	s.bounds, s.prefixes, s.ok = make([]int, s.n+1), make([]int, s.n+1), make([]bool, s.n+1)
	s.prefixes[s.n], s.ok[s.n], s.bounds[s.n] = len(s.text), true, len(s.text)
	for i := 1; i < s.n; i++ {
		gap, known := s.gap(i)
		if off, seen := s.boundAfter[gap]; known && seen {
			s.bounds[i] = s.contents[i-1].End + off
			continue
		}
		b := s.bounds[i-1]
		if c := s.contents[i-1]; c != nil {
			b = max(b, c.End)
		}
		if r, err := s.render(i, false); err == nil {
			if s.prefixes[i] = -1; strings.HasPrefix(s.text, r) {
				s.prefixes[i] = len(r)
				s.ok[i] = len(r) >= b && (s.contents[i] == nil || len(r) <= s.contents[i].Start)
			}
		}
		if s.ok[i] {
			b = s.prefixes[i]
		}
		s.bounds[i] = b
		if known {
			s.boundAfter[gap] = b - s.contents[i-1].End
		}
	}
}

// render is the text of the first i messages.
func (s *splitter) render(i int, prompt bool) (string, error) {
	in := s.in
	in.Messages, in.AddGenerationPrompt = s.in.Messages[:i], prompt
	r, err := s.renderInput(in)
	return r.Text, err
}

// renderInput notes that the budget is spent: what a rendering would have told is then not known, and must not be guessed.
func (s *splitter) renderInput(in Input) (Rendering, error) {
	if s.spent != nil {
		return Rendering{}, s.spent
	}
	r, err := s.t.render(in, s.budget)
	var je *jinja.Error
	if errors.As(err, &je) && je.Budget {
		s.spent = err
	}
	return r, err
}

// isReply says whether the model is who writes such a message.
func isReply(role string) bool { return role == "assistant" || role == "model" }

// replies are the ranges of the assistant's turns, by the message order.
func (s *splitter) replies() ([]Span, error) {
	var out []Span
	floor := 0 // the end of the last reply, before which no later message begins
	for i, m := range s.in.Messages {
		s.bounds[i] = max(s.bounds[i], floor)
		role := Role(m)
		if !isReply(role) {
			continue
		}
		fail := func(reason string) error {
			return &SegmentError{Template: s.t.name, Index: i, Role: role, Reason: reason}
		}
		start, ok := s.replyStart(i)
		if !ok {
			return nil, fail("where its text begins is not clear: the rendering of the turns before it, with the generation prompt, is not how the whole begins")
		}
		if start < floor || i > 0 && start < s.bounds[i-1] {
			return nil, fail("where its text begins is not clear: it seems to begin within the turns before it")
		}
		end, ok := s.replyEnd(i)
		if !ok || end < start {
			return nil, fail("where its text ends is not clear: the rendering up to it is not how the whole begins")
		}
		end = s.trimTail(i, start, end)
		s.bounds[i] = min(s.bounds[i], start)
		floor = max(floor, end)
		if end > start {
			out = append(out, Span{Start: start, End: end})
		}
	}
	s.bounds[s.n] = max(s.bounds[s.n], floor)
	return out, nil
}

// replyStart is where the text of message i begins.
func (s *splitter) replyStart(i int) (int, bool) {
	gap, known := s.gap(i)
	if off, seen := s.startBefore[gap]; known && seen {
		return s.contents[i].Start - off, true
	}
	start, ok := s.findStart(i)
	if known && ok {
		s.startBefore[gap] = s.contents[i].Start - start
	}
	return start, ok
}

func (s *splitter) findStart(i int) (int, bool) {
	c := s.contents[i]
	prompted, err := s.render(i, true)
	fits := err == nil && strings.HasPrefix(s.text, prompted) && len(prompted) >= s.bounds[i] && (c == nil || len(prompted) <= c.Start)
	switch {
	case fits && len(prompted) != s.prefixes[i]:
		return len(prompted), true
	case c != nil:
		return c.Start, true
	case fits && s.ok[i+1]:
		// The template has no generation prompt; without a known content the whole turn is taken for the reply.
		return len(prompted), true
	}
	return 0, false
}

// replyEnd is where message i ends, its end marker included.
func (s *splitter) replyEnd(i int) (int, bool) {
	gap, known := s.gap(i + 1)
	if off, seen := s.endAfter[gap]; known && seen {
		return s.contents[i].End + off, true
	}
	end, ok := s.findEnd(i)
	if known && ok {
		s.endAfter[gap] = end - s.contents[i].End
	}
	return end, ok
}

func (s *splitter) findEnd(i int) (int, bool) {
	if s.ok[i+1] {
		return s.prefixes[i+1], true
	}
	c := s.contents[i]
	if c == nil {
		return 0, false
	}
	// What follows the content when the message is the last one is its end marker, as far as it stands here too.
	in := s.in
	in.Messages = append([]Value(nil), s.in.Messages[:i+1]...)
	in.Messages[i], _, _ = disguised(in.Messages[i], i)
	r, err := s.renderInput(in)
	if err != nil {
		return 0, false
	}
	_, tail, ok := strings.Cut(r.Text, word(i))
	if !ok {
		return 0, false
	}
	n := common(tail, s.text[c.End:])
	if n < len(strings.TrimRight(tail, " \t\r\n")) {
		n = wholeMarkers(tail[:n])
	}
	return c.End + n, true
}

// wholeMarkers is the length of s without a marker like <...> or [...] that only begins in it.
func wholeMarkers(s string) int {
	for _, m := range []string{"<>", "[]"} {
		open, end := m[:1], m[1:]
		if i := strings.LastIndex(s, open); i >= 0 && !strings.Contains(s[i:], end) {
			s = s[:i]
		}
	}
	return len(s)
}

// trimTail takes the white space after an end marker off a reply; the model stops at the marker. Without a marker it stays.
func (s *splitter) trimTail(i, start, end int) int {
	from := start
	if c := s.contents[i]; c != nil && c.End <= end {
		from = c.End
	}
	tail := strings.TrimRight(s.text[from:end], " \t\r\n")
	if tail == "" && from > start {
		return end
	}
	return from + len(tail)
}

// cut lays the messages' bounds and the generated spans over the text.
func (s *splitter) cut(spans []Span) []Segment {
	var out []Segment
	for i, m := range s.in.Messages {
		pos, end := s.bounds[i], s.bounds[i+1]
		add := func(to int, generated bool) {
			if to > pos {
				out = append(out, Segment{Start: pos, End: to, Role: Role(m), Index: i, Generated: generated})
				pos = to
			}
		}
		for len(spans) > 0 && spans[0].End <= pos {
			spans = spans[1:]
		}
		for _, g := range spans {
			if g.Start >= end {
				break
			}
			add(max(g.Start, pos), false)
			add(min(g.End, end), true)
		}
		add(end, false)
	}
	return out
}
