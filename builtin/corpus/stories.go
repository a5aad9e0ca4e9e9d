package corpus

import (
	"slices"
	"strings"
)

// story is one plot told in one scene.
func story(r *rng) string { return tell(r, pick(r, plots), newScene(r)) }

// tell writes one sentence for each rule of the plot. A rule that occurs several times gives different alternatives, in the
// order of its table, which is the order of events.
func tell(r *rng, plot []string, sc scene) string {
	queue := map[string][]string{}
	for _, name := range plot {
		if _, done := queue[name]; !done {
			queue[name] = inOrder(r, rules[name], count(plot, name))
		}
	}
	sentences := make([]string, 0, len(plot))
	for _, name := range plot {
		if next := queue[name]; len(next) > 0 {
			sentences = append(sentences, expand(r, next[0], sc))
			queue[name] = next[1:]
		}
	}
	return strings.Join(sentences, " ")
}

// inOrder draws k of the alternatives and keeps their order.
func inOrder(r *rng, alternatives []string, k int) []string {
	index := make([]int, len(alternatives))
	for i := range index {
		index[i] = i
	}
	index = sample(r, index, k)
	slices.Sort(index)
	out := make([]string, len(index))
	for i, j := range index {
		out[i] = alternatives[j]
	}
	return out
}

func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

// dialogue is a meeting of two people: greeting, two to four exchanges, parting.
func dialogue(r *rng) string {
	plot := []string{"greet"}
	for range 2 + r.intN(3) {
		plot = append(plot, "talk")
	}
	return tell(r, append(plot, "bye"), newScene(r))
}

// tale is a chain of relative clauses that grows by one link a sentence, then a plain ending.
func tale(r *rng) string {
	sc := newScene(r)
	links := []string{
		"the {dish} that lay {at}", "the {animal} that ate", "the cat that chased", "the dog that followed", "the {role} that called",
		"the horse that carried", "the child that loved",
	}
	sc["role"] = pick(r, rules["role"])
	depth := 3 + r.intN(2)
	chain := append(links[:1:1], inOrder(r, links[1:], depth)...)
	var out []string
	for i := range chain {
		parts := slices.Clone(chain[:i+1])
		slices.Reverse(parts)
		out = append(out, "this is "+strings.Join(parts, " ")+".")
	}
	text := expand(r, strings.Join(out, " "), sc)
	return text + expand(r, " {h} told this story to {f} {at}. ", sc) + tell(r, []string{"sky", "cause", "end"}, sc)
}

// qa is a question, its full answer and its short answer; all are templates.
type qa struct{ ask, full, short string }

// questions prints some of the pairs. Short answers have a label of their own, so that the label tells which kind is due.
func questions(r *rng, list []qa, k int, sc scene) string {
	short := r.chance(40)
	var b strings.Builder
	for _, q := range sample(r, list, k) {
		label, answer := "answer: ", q.full
		if short {
			label, answer = "short answer: ", q.short
		}
		b.WriteString("\nquestion: " + q.ask + "\n" + label + answer)
	}
	return expand(r, b.String(), sc)
}

// storyWithQuestions is a story whose facts are asked for at its end.
func storyWithQuestions(r *rng) string {
	sc := newScene(r)
	type told struct {
		plot []string
		ask  []qa
	}
	t := pick(r, []told{
		{[]string{"open", "find", "end"}, []qa{
			{"who {saw} the {thing}?", "{h} {saw} the {thing}.", "{h}."}, {"what did {h} {see}?", "{h} {saw} a {colour} {thing}.", "a {thing}."},
			{"what colour was the {thing}?", "the {thing} was {colour}.", "{colour}."},
		}},
		{[]string{"lose", "search", "found"}, []qa{
			{"what did {h} lose?", "{h} lost a {colour} {thing}.", "a {thing}."}, {"who lost the {thing}?", "{h} lost the {thing}.", "{h}."},
			{"what colour was the {thing}?", "the {thing} was {colour}.", "{colour}."},
		}},
		{[]string{"open", "meet", "hungry", "fed"}, []qa{
			{"which animal did {h} meet?", "{h} met a {animal}.", "a {animal}."}, {"who met the {animal}?", "{h} met the {animal}.", "{h}."},
			{"what does the {animal} eat?", "the {animal} eats {feed}.", "{feed}."},
			{"where does the {animal} live?", "the {animal} lives {home}.", "{home}."},
		}},
		{[]string{"gift", "given", "given"}, []qa{
			{"what did {h} give to {f}?", "{h} gave a {colour} {thing} to {f}.", "a {thing}."},
			{"who gave {f} a present?", "{h} gave {f} a {colour} {thing}.", "{h}."},
			{"who got the {thing}?", "{f} got the {thing}.", "{f}."},
		}},
	})
	return "story: " + tell(r, t.plot, sc) + questions(r, t.ask, 2+r.intN(2), sc)
}
