package data

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// Renderer turns conversations into text as a chat template has it.
type Renderer interface {
	// Render returns the whole conversation with the places of its turns. The error is of the template or of what it refuses.
	Render(c *Conversation) (Rendered, error)
}

// Rendered is the text of a conversation.
type Rendered struct {
	Text  string
	Turns []Turn // in order of the text, without those that the template leaves out; a message may have several
}

// Turn is the place of a message in a rendered text, in bytes: Text[Start:End] is what the model writes, from behind the generation
// prompt to the token that ends the turn, that token included.
type Turn struct {
	Message    int // index in Conversation.Messages
	Start, End int
	Bare       bool // the turn is the message's words alone: no token says that it is over
}

// OffsetEncoder is an Encoder that knows which bytes of the text its tokens stand for. Without it the border of a turn is found by
// tokenising the text up to there again.
type OffsetEncoder interface {
	Encoder
	// EncodeOffsets returns the ids of Encode, and for token i the byte offsets [offsets[2i], offsets[2i+1]) of its text, ascending; nil
	// offsets where they are not known for this text.
	EncodeOffsets(text string) (ids, offsets []int32, err error)
}

// Chat renders and tokenises a conversation. Turns before from are the prompt and are not trained. The template writes all special
// tokens: no BOS is added, and an EOS only where the template ends the last turn with nothing.
func (c *Converter) Chat(r *Row, conv *Conversation, from int) ([]Doc, error) {
	if err := c.knownRoles(r, conv); err != nil {
		return nil, err
	}
	if err := c.checkRoles(r, conv, from); err != nil {
		return nil, err
	}
	if c.Renderer == nil {
		return nil, r.Errorf("is a conversation, and the model has no chat template; name one with data.template, or use rows of plain text")
	}
	ren, err := c.Renderer.Render(conv)
	if err != nil {
		return nil, &RowError{File: r.File, Line: r.Line, Reason: err.Error(), Err: err}
	}
	ranges, err := c.trainedRanges(r, conv, &ren, from)
	if err != nil {
		return nil, err
	}
	d, err := c.mask(r, &ren, ranges)
	if err != nil {
		return nil, err
	}
	d.Chat = true
	if r.sample {
		d.Differs = c.differs(conv, &ren, from)
	}
	if trained(d.Labels) == 0 {
		return nil, r.untrainedErr("has no token to train on after rendering; every trained turn is empty: remove the row, or set data.mask")
	}
	return []Doc{d}, nil
}

// checkRoles refuses a conversation from which nothing can be learnt.
func (c *Converter) checkRoles(r *Row, conv *Conversation, from int) error {
	if len(conv.Messages) == 0 {
		return r.untrainedErr("has no messages; remove the row")
	}
	roles := make([]string, len(conv.Messages))
	for i, m := range conv.Messages {
		if roles[i] = m.Role; i < from {
			continue
		}
		if m.Role == Assistant && m.Train != TrainNo || m.Train == TrainYes || c.Mask == MaskNone && m.Train != TrainNo {
			return nil
		}
	}
	if slices.Contains(roles[from:], Assistant) {
		return r.untrainedErr("has no trained turn: every assistant turn is marked train: false; remove the row")
	}
	return r.untrainedErr("has no assistant turn to learn (its roles are %s); remove the row, or map its roles to user and assistant",
		keyList(slices.Compact(slices.Clip(roles))))
}

// differs compares the text before the last answer with what the template gives a model that is to write that answer.
func (c *Converter) differs(conv *Conversation, ren *Rendered, from int) string {
	p, ok := c.Renderer.(interface {
		Prompt(c *Conversation) (string, error)
	})
	if !ok {
		return ""
	}
	for i := len(ren.Turns) - 1; i >= 0; i-- {
		t := ren.Turns[i]
		if conv.Messages[t.Message].Role != Assistant || t.Message < from || i > 0 && ren.Turns[i-1].Message == t.Message {
			continue
		}
		before := *conv
		before.Messages = conv.Messages[:t.Message]
		given, err := p.Prompt(&before)
		if err != nil || given == ren.Text[:t.Start] { // a template may refuse to go on from there, as after a call of a tool
			return ""
		}
		at := 0
		for at < min(len(given), t.Start) && given[at] == ren.Text[at] {
			at++
		}
		return fmt.Sprintf("before turn %d, from byte %d on: trained behind %.40q, given %.40q", t.Message+1, at, ren.Text[at:t.Start], given[at:])
	}
	return ""
}

// byteRange is a trained part of the text.
type byteRange struct{ start, end int }

// trainedRanges applies the mask and the flags of messages to the turns.
func (c *Converter) trainedRanges(r *Row, conv *Conversation, ren *Rendered, from int) ([]byteRange, error) {
	last := -1
	for i, m := range conv.Messages {
		if m.Role == Assistant {
			last = i
		}
	}
	turns := make(map[int][]Turn, len(ren.Turns))
	for _, t := range ren.Turns {
		turns[t.Message] = append(turns[t.Message], t)
	}
	var out []byteRange
	for i := range conv.Messages {
		m := &conv.Messages[i]
		yes := m.Train == TrainYes
		if m.Train == TrainByMask {
			yes = m.Role == Assistant && i >= from && (c.Mask != MaskLast || i == last)
		}
		if !yes {
			continue
		}
		t := turns[i]
		if len(t) == 0 || !keepsText(ren.Text[t[0].Start:t[len(t)-1].End], m.Content) {
			return nil, r.Errorf("the template drops the text of %s turn %d (%.60q); choose another with data.template", m.Role, i+1, m.Content)
		}
		if name, ok := droppedCall(ren.Text[t[0].Start:t[len(t)-1].End], m); ok {
			return nil, r.Errorf("the template drops the call of the tool %s in %s turn %d, so the model would learn to call nothing; choose another with data.template", name, m.Role, i+1)
		}
		for _, t := range t {
			out = append(out, byteRange{t.Start, t.End})
		}
	}
	if c.Mask == MaskNone {
		return c.inverse(conv, ren, turns), nil
	}
	return out, nil
}

// inverse is the whole text but turns that are marked as untrained.
func (c *Converter) inverse(conv *Conversation, ren *Rendered, turns map[int][]Turn) []byteRange {
	out, at := []byteRange{}, 0
	for i, m := range conv.Messages {
		for _, t := range turns[i] {
			if m.Train == TrainNo && t.Start >= at {
				out, at = append(out, byteRange{at, t.Start}), t.End
			}
		}
	}
	return append(out, byteRange{at, len(ren.Text)})
}

// keepsText reports whether the rendered turn holds the content: as it is, without the white space around it, or without the reasoning
// that some templates cut out of it.
func keepsText(turn, content string) bool {
	content = strings.TrimSpace(content)
	if content == "" || strings.Contains(turn, content) {
		return true
	}
	if _, answer, ok := strings.Cut(content, "</think>"); ok && strings.Contains(turn, strings.TrimSpace(answer)) {
		return true
	}
	return strings.Contains(squeeze(turn), squeeze(content))
}

// squeeze removes all white space.
func squeeze(s string) string { return strings.Join(strings.Fields(s), "") }

// mask tokenises the text and labels the tokens of the ranges: those that hold their first byte up to those that hold their last.
func (c *Converter) mask(r *Row, ren *Rendered, ranges []byteRange) (Doc, error) {
	b, err := c.borders(r, ren.Text)
	if err != nil {
		return Doc{}, err
	}
	d := Doc{IDs: b.ids, Labels: slices.Repeat([]int32{Ignore}, len(b.ids))}
	for _, g := range ranges {
		lo, torn, err := b.first(g.start)
		if err != nil {
			return d, err
		}
		d.Torn = d.Torn || torn
		hi, err := b.behind(g.end)
		if err != nil {
			return d, err
		}
		copy(d.Labels[lo:max(lo, hi)], d.IDs[lo:max(lo, hi)])
	}
	if len(c.EOS) > 0 && unended(ren, ranges) {
		d.IDs, d.Labels, d.Ended = append(d.IDs, c.EOS...), append(d.Labels, c.EOS...), true
	}
	return d, nil
}

// unended reports whether the text ends with the words of a trained turn: no token says that it is over, and a model trained so would
// never stop.
func unended(ren *Rendered, ranges []byteRange) bool {
	if len(ren.Turns) == 0 || len(ranges) == 0 {
		return false
	}
	t, last := ren.Turns[len(ren.Turns)-1], ranges[len(ranges)-1]
	return t.Bare && t.End >= len(strings.TrimRight(ren.Text, " \t\r\n")) && last.start < t.End && last.end >= t.End
}

// borders finds the tokens at byte offsets of a text.
type borders struct {
	row     *Row
	conv    *Converter
	text    string
	ids     []int32
	offsets []int32 // nil: found by tokenising again
}

func (c *Converter) borders(r *Row, text string) (b borders, err error) {
	b = borders{row: r, conv: c, text: text}
	if oe, ok := c.Encoder.(OffsetEncoder); ok {
		b.ids, b.offsets, err = oe.EncodeOffsets(text)
		if err != nil {
			return b, &RowError{File: r.File, Line: r.Line, Reason: "cannot be tokenised: " + err.Error(), Err: err}
		}
		if b.offsets != nil && len(b.offsets) != 2*len(b.ids) {
			return b, r.Errorf("%d offsets for %d tokens", len(b.offsets), len(b.ids))
		}
		return b, nil
	}
	b.ids, err = c.encode(r, text)
	return b, err
}

// first is the index of the token that holds the byte at the offset; torn says that it also holds bytes before it.
func (b *borders) first(at int) (i int, torn bool, err error) {
	if b.offsets == nil {
		n, whole, err := b.shared(at)
		return n, !whole, err
	}
	i = sort.Search(len(b.ids), func(i int) bool { return int(b.offsets[2*i+1]) > at })
	return i, i < len(b.ids) && int(b.offsets[2*i]) < at, nil
}

// behind is the index after the token that holds the byte before the offset.
func (b *borders) behind(at int) (int, error) {
	if b.offsets == nil {
		n, whole, err := b.shared(at)
		if !whole {
			n++
		}
		return min(n, len(b.ids)), err
	}
	return sort.Search(len(b.ids), func(i int) bool { return int(b.offsets[2*i]) >= at }), nil
}

// shared counts the tokens of the text that the text up to the offset begins with too; whole says that they are all it has.
func (b *borders) shared(at int) (n int, whole bool, err error) {
	switch at {
	case 0:
		return 0, true, nil
	case len(b.text):
		return len(b.ids), true, nil
	}
	head, err := b.conv.encode(b.row, b.text[:at])
	if err != nil {
		return 0, false, err
	}
	for n < min(len(head), len(b.ids)) && head[n] == b.ids[n] {
		n++
	}
	return n, n == len(head), nil
}

// Say makes a message of plain text.
func Say(role, content string) (Message, error) {
	m := Message{Role: role, Content: content}
	a, err := quote(role)
	if err != nil {
		return m, err
	}
	b, err := quote(content)
	m.Fields = fmt.Appendf(nil, `{"role":%s,"content":%s}`, a, b)
	return m, err
}

// plainName is the name of a tool that every template writes as it is.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// droppedCall names a tool that the message calls and its rendered turn does not.
func droppedCall(turn string, m *Message) (name string, dropped bool) {
	if !bytes.Contains(m.Fields, []byte(`"tool_calls"`)) {
		return "", false
	}
	var f struct {
		Calls []struct{ Function struct{ Name string } } `json:"tool_calls"`
	}
	if json.Unmarshal(m.Fields, &f) != nil {
		return "", false
	}
	for _, c := range f.Calls {
		if n := c.Function.Name; plainName.MatchString(n) && !strings.Contains(turn, n) {
			return n, true
		}
	}
	return "", false
}
