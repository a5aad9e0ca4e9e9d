package corpus

import (
	"maps"
	"strings"
)

// maxDepth bounds recursion: below it a rule takes its first alternative, which by convention refers to no recursive rule.
const maxDepth = 5

// scene binds the {names} of a template to words, so that every sentence of a document talks of the same world.
type scene map[string]string

// expand writes out a template: {name} is replaced by the scene's word, <rule> by one of the rule's alternatives, expanded in
// turn. What is bound to nothing stays as written; a test shows that no table refers to such a name.
func expand(r *rng, template string, sc scene) string {
	var b strings.Builder
	expandInto(&b, r, template, sc, 0)
	return b.String()
}

func expandInto(b *strings.Builder, r *rng, s string, sc scene, depth int) {
	for s != "" {
		i := strings.IndexAny(s, "{<")
		if i < 0 {
			b.WriteString(s)
			return
		}
		b.WriteString(s[:i])
		j := strings.IndexAny(s[i:], "}>")
		if j < 0 {
			b.WriteString(s[i:])
			return
		}
		name, ref := s[i+1:i+j], s[i:i+j+1]
		s = s[i+j+1:]
		alternatives, isRule := rules[name]
		word, isWord := sc[name]
		switch {
		case ref[0] == '{' && isWord:
			b.WriteString(word)
		case ref[0] == '<' && isRule && depth >= maxDepth:
			expandInto(b, r, alternatives[0], sc, depth+1)
		case ref[0] == '<' && isRule:
			expandInto(b, r, pick(r, alternatives), sc, depth+1)
		default:
			b.WriteString(ref)
		}
	}
}

// with returns a copy of the scene in which more names are bound.
func (sc scene) with(more scene) scene {
	out := maps.Clone(sc)
	maps.Copy(out, more)
	return out
}

// finish turns expanded text into printed English: "a" before a vowel becomes "an", and the first letter of each line, label,
// sentence and quotation becomes a capital. A ~ after a closed quotation says that the sentence goes on ("Why?" ~asked Mia).
func finish(s string) string {
	s = articles(s)
	out := make([]byte, 0, len(s))
	capital := true
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '~':
			capital = false
			continue
		case c == '\n' || endsSentence(s, i):
			capital = true
		case c == '"' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\n'):
			capital = true
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			if capital && c >= 'a' {
				c -= 'a' - 'A'
			}
			capital = false
		}
		out = append(out, c)
	}
	return string(out)
}

// endsSentence reports whether the space at s[i] follows a full stop, a question or exclamation mark, either of them in
// quotation marks, or the colon of a label.
func endsSentence(s string, i int) bool {
	if s[i] != ' ' || i == 0 {
		return false
	}
	i--
	if s[i] == '"' && i > 0 {
		i--
	}
	return strings.IndexByte(".!?:", s[i]) >= 0
}

// articles writes "an" for every "a" whose next word begins with a vowel. The lexicon holds no word whose first sound differs
// from its first letter in this respect.
func articles(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte(s[i])
		alone := s[i] == 'a' && (i == 0 || !isLetter(s[i-1])) && i+2 < len(s) && s[i+1] == ' '
		if alone && strings.IndexByte("aeiou", s[i+2]|0x20) >= 0 {
			b.WriteByte('n')
		}
	}
	return b.String()
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
