package corpus

import "strings"

// sightings say that {h} {saw} a {colour} {thing} {at}: one event, four facts, many orders of the words. The fine-tuning set
// asks for these four facts in a form of its own.
var sightings = []string{
	"{h} {saw} a {colour} {thing} {at}.",
	"{at}, {h} {saw} a {colour} {thing}.",
	"one {weather} {time}, {h} {saw} a {colour} {thing} {at}.",
	"on {day}, {h} went {to} and {saw} a {colour} {thing} there.",
	"{h} was {at} when {he} {saw} a {colour} {thing}.",
	"the {thing} that {h} {saw} {at} was {colour}.",
	"{h} walked {to}. {he} {saw} a {thing} there. It was {colour}.",
	"there was a {colour} {thing} {at}. {h} {saw} it on {day}.",
	"it was {weather}. {h} was {at}, and there {he} {saw} a {colour} {thing}.",
	"a {colour} {thing} was {at}, and only {h} {saw} it.",
	"it was {h} who {saw} the {colour} {thing} {at}.",
	"when {h} came {to}, {he} {saw} a {thing} that was {colour}.",
}

var sightingQuestions = []qa{
	{"who {saw} the {thing}?", "{h} {saw} the {thing}.", "{h}."},
	{"what did {h} {see} {at}?", "{h} {saw} a {colour} {thing}.", "a {thing}."},
	{"what was {at}?", "a {colour} {thing} was {at}.", "a {thing}."},
	{"what colour was the {thing}?", "the {thing} was {colour}.", "{colour}."},
	{"where was the {thing}?", "the {thing} was {at}.", "{at}."},
	{"where did {h} {see} the {thing}?", "{h} {saw} the {thing} {at}.", "{at}."},
	{"which thing was {colour}?", "the {thing} was {colour}.", "the {thing}."},
	{"did {h} {see} the {thing}?", "yes, {h} {saw} the {thing}.", "yes."},
	{"did {f} {see} the {thing}?", "no, {h} {saw} the {thing}.", "no."},
}

// sighted binds {thing} and {colour} to an object or, half of the time, to an animal and its coat.
func sighted(r *rng, sc scene) scene {
	if r.chance(50) {
		return sc.with(scene{"thing": sc["animal"], "colour": sc["coat"]})
	}
	return sc
}

// recall is a sighting with questions about it, sometimes with a sentence more to read past, or two sightings one after another.
func recall(r *rng) string {
	parts := make([]string, 0, 2)
	stories, asked := 1, 4+r.intN(4)
	if r.chance(25) {
		stories, asked = 2, 3
	}
	for range stories {
		sc := sighted(r, newScene(r))
		text := "story: " + expand(r, pick(r, sightings), sc)
		if r.chance(30) {
			text += " " + expand(r, pick(r, rules[pick(r, []string{"sky", "end", "cause"})]), sc)
		}
		parts = append(parts, text+questions(r, sightingQuestions, asked, sc))
	}
	return strings.Join(parts, "\n")
}

// possessions gives three or four people one thing each and asks who has what: here recall must tell several facts apart.
func possessions(r *rng) string {
	k := 3 + r.intN(2)
	people := sample(r, append(append([]string(nil), girls...), boys...), k)
	objects, tints, where := sample(r, things, k), sample(r, colours, k), sample(r, places, k)
	forms := []string{
		"{h} has a {colour} {thing}.", "the {colour} {thing} belongs to {h}.", "{h} keeps a {colour} {thing} {at}.",
		"{h} is {at} with a {colour} {thing}.", "{at}, {h} plays with a {colour} {thing}.",
	}
	form := pick(r, forms)
	mixed := r.chance(50)
	var told []string
	var asked []qa
	for i := range k {
		sc := scene{"h": people[i], "thing": objects[i], "colour": tints[i], "at": at(where[i])}
		if mixed {
			form = pick(r, forms)
		}
		told = append(told, expand(r, form, sc))
		ask := []qa{
			{"who has the {thing}?", "{h} has the {thing}.", "{h}."}, {"what does {h} have?", "{h} has a {colour} {thing}.", "a {thing}."},
			{"what colour is the {thing}?", "the {thing} is {colour}.", "{colour}."}, {"who has something {colour}?", "{h} has a {colour} {thing}.", "{h}."},
		}
		if strings.Contains(form, "{at}") {
			ask = append(ask, qa{"where is {h}?", "{h} is {at}.", "{at}."}, qa{"who is {at}?", "{h} is {at}.", "{h}."})
		}
		for _, q := range ask {
			asked = append(asked, qa{expand(r, q.ask, sc), expand(r, q.full, sc), expand(r, q.short, sc)})
		}
	}
	return "story: " + strings.Join(told, " ") + questions(r, asked, 3+r.intN(3), nil)
}

// diary tells where somebody went on the days of a week, and asks for some of them.
func diary(r *rng) string {
	sc := newScene(r)
	k := 3 + r.intN(3)
	where, first := sample(r, places, k), r.intN(len(days)-k+1)
	doings := sample(r, []string{
		"met {f}", "ate {meal}", "{saw} a {animal}", "bought a {thing}", "helped the {trade}", "played all {time}", "lost {his} {thing2}",
	}, k)
	var told []string
	var asked []qa
	for i := range k {
		day := scene{"day": days[first+i], "at": at(where[i]), "to": to(where[i]), "doing": expand(r, doings[i], sc), "who": sc["he"]}
		if i == 0 {
			day["who"] = sc["h"]
		}
		day = sc.with(day)
		told = append(told, expand(r, "on {day}, {who} went {to} and {doing}.", day))
		for _, q := range []qa{
			{"where was {h} on {day}?", "on {day}, {h} was {at}.", "{at}."},
			{"when did {h} go {to}?", "{h} went {to} on {day}.", "on {day}."},
			{"who {doing}?", "{h} {doing} on {day}.", "{h}."},
		} {
			asked = append(asked, qa{expand(r, q.ask, day), expand(r, q.full, day), expand(r, q.short, day)})
		}
	}
	return strings.Join(told, " ") + questions(r, asked, 2+r.intN(3), nil)
}

// echo is a game in which one child repeats the words of another. The words are drawn without rule, so that copying is the only
// way to predict them: it is the shortest path to attention that looks for an earlier word.
func echo(r *rng) string {
	sc := cast(r)
	lines := []string{pick(r, []string{
		"{h} and {f} play a game. {h} says some words, and {f} says the same words.",
		"this is a game. {f} must say what {h} says.",
		"{f} learns new words. {h} says them first, and {f} says them after {him}.",
	})}
	for range 2 + r.intN(4) {
		words := sample(r, echoWords(r), 3+r.intN(4))
		list := strings.Join(words, ", ")
		lines = append(lines, "\""+list+",\" ~says {h}. \""+list+",\" ~says {f}.")
	}
	if r.chance(50) {
		lines = append(lines, pick(r, []string{"then they laugh and go home.", "it is a good game.", "\"You did well,\" ~says {h}."}))
	}
	return expand(r, strings.Join(lines, " "), sc)
}

// echoWords draws two words of each kind.
func echoWords(r *rng) []string {
	words := append(sample(r, girls, 2), sample(r, boys, 2)...)
	words = append(words, sample(r, colours, 2)...)
	words = append(words, sample(r, things, 2)...)
	for _, a := range sample(r, animals, 2) {
		words = append(words, a.name)
	}
	for _, p := range sample(r, places, 2) {
		words = append(words, p.noun)
	}
	return words
}
