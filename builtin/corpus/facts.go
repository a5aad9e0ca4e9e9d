package corpus

import (
	"slices"
	"strings"
)

// portrait describes one kind of animal, in singular or plural, and asks about it.
func portrait(r *rng) string {
	a, b := twoSizes(r)
	sc := newScene(r).with(animalWords(a)).with(scene{"other": b.name, "than": sizeWord(a, b)})
	lines := []string{
		"it eats {feed}.", "it lives {home}.", "a {animal} can {can}, but it cannot {cannot}.", "it has {legs} legs.",
		"a {animal} is {than} than a {other}.", "{h} once saw a {coat} {animal} {at}.", "when it is hungry, it looks for {feed}.",
		"all {animals} like {feed}.", "some {animals} are {coat}.",
	}
	if a.noise != "" {
		lines = append(lines, "when it is happy, it {noise}.", "at night, it sometimes {noise}.")
	}
	if a.baby != "" {
		lines = append(lines, "its young is called a {baby}.")
	}
	first := pick(r, []string{"the {animal} is an animal.", "{h} likes the {animal}.", "this is a {animal}.", "do you know the {animal}?"})
	text := first + " " + strings.Join(sample(r, lines, 4+r.intN(3)), " ")
	return expand(r, text, sc) + questions(r, animalQuestions(a), 2+r.intN(3), sc)
}

func animalWords(a animal) scene {
	return scene{
		"animal": a.name, "animals": a.plural, "feed": a.food, "home": a.home, "noise": a.noise, "can": a.can, "cannot": a.cannot,
		"baby": a.baby, "legs": numbers[a.legs], "coat": a.coats[0],
	}
}

func animalQuestions(a animal) []qa {
	sc := animalWords(a)
	list := []qa{
		{"what does the {animal} eat?", "the {animal} eats {feed}.", "{feed}."},
		{"where does the {animal} live?", "the {animal} lives {home}.", "{home}."},
		{"how many legs does a {animal} have?", "a {animal} has {legs} legs.", "{legs}."},
		{"can a {animal} {can}?", "yes, a {animal} can {can}.", "yes."},
		{"can a {animal} {cannot}?", "no, a {animal} cannot {cannot}.", "no."},
		{"what do {animals} like?", "{animals} like {feed}.", "{feed}."},
	}
	if a.noise != "" {
		list = append(list, qa{"what does the {animal} do when it is happy?", "the {animal} {noise}.", "it {noise}."})
	}
	if a.baby != "" {
		list = append(list, qa{"what is a young {animal} called?", "a young {animal} is called a {baby}.", "a {baby}."})
	}
	for i, q := range list {
		list[i] = qa{bind(q.ask, sc), bind(q.full, sc), bind(q.short, sc)}
	}
	return list
}

// bind replaces the scene's names and leaves rules alone.
func bind(template string, sc scene) string {
	for _, name := range []string{"animal", "animals", "feed", "home", "noise", "can", "cannot", "baby", "legs"} {
		template = strings.ReplaceAll(template, "{"+name+"}", sc[name])
	}
	return template
}

// twoSizes draws two animals of different size.
func twoSizes(r *rng) (a, b animal) {
	a, b = pick(r, animals), pick(r, animals)
	for a.size == b.size {
		b = pick(r, animals)
	}
	return a, b
}

func sizeWord(a, b animal) string {
	if a.size > b.size {
		return "bigger"
	}
	return "smaller"
}

// quiz is a row of questions about what holds everywhere in this world.
func quiz(r *rng) string {
	list := make([]qa, 0, 8)
	kinds := []func(*rng) qa{
		askAnimal, askAnimal, askSize, askColour, askOpposite, askNext, askSum, askDay, askUse, askTrade, askFood,
	}
	for range 4 + r.intN(4) {
		q := pick(r, kinds)(r)
		if !slices.ContainsFunc(list, func(old qa) bool { return old.ask == q.ask }) {
			list = append(list, q)
		}
	}
	return strings.TrimPrefix(questions(r, list, len(list), nil), "\n")
}

func askAnimal(r *rng) qa { return pick(r, animalQuestions(pick(r, animals))) }

func askSize(r *rng) qa {
	a, b := twoSizes(r)
	fact := "a " + a.name + " is " + sizeWord(a, b) + " than a " + b.name + "."
	asked := pick(r, []string{"bigger", "smaller"})
	q := qa{"is a " + a.name + " " + asked + " than a " + b.name + "?", "yes, " + fact, "yes."}
	if asked != sizeWord(a, b) {
		q.full, q.short = "no, "+fact, "no."
	}
	return q
}

func askColour(r *rng) qa {
	f := pick(r, thingColours)
	if r.chance(30) {
		wrong := pick(r, colours)
		q := qa{"is " + f.a + " " + wrong + "?", "yes, " + f.a + " is " + f.b + ".", "yes."}
		if wrong != f.b {
			q.full, q.short = "no, "+f.a+" is "+f.b+".", "no."
		}
		return q
	}
	return qa{"what colour is " + f.a + "?", f.a + " is " + f.b + ".", f.b + "."}
}

func askOpposite(r *rng) qa {
	p := pick(r, opposites)
	if r.chance(50) {
		p.a, p.b = p.b, p.a
	}
	return qa{"what is the opposite of " + p.a + "?", "the opposite of " + p.a + " is " + p.b + ".", p.b + "."}
}

func askNext(r *rng) qa {
	i := 1 + r.intN(9)
	if r.chance(50) {
		return qa{"which number comes before " + numbers[i+1] + "?", numbers[i] + " comes before " + numbers[i+1] + ".", numbers[i] + "."}
	}
	return qa{"which number comes after " + numbers[i] + "?", numbers[i+1] + " comes after " + numbers[i] + ".", numbers[i+1] + "."}
}

func askSum(r *rng) qa {
	i := 1 + r.intN(8)
	j := 1 + r.intN(10-i-1)
	sum := numbers[i] + " and " + numbers[j]
	return qa{"how much is " + sum + "?", sum + " is " + numbers[i+j] + ".", numbers[i+j] + "."}
}

func askDay(r *rng) qa {
	i := r.intN(len(days))
	next := days[(i+1)%len(days)]
	if r.chance(30) {
		k := r.intN(len(seasons))
		later := seasons[(k+1)%len(seasons)]
		return qa{"what comes after " + seasons[k] + "?", later + " comes after " + seasons[k] + ".", later + "."}
	}
	return qa{"which day comes after " + days[i] + "?", next + " comes after " + days[i] + ".", next + "."}
}

func askUse(r *rng) qa {
	u := pick(r, uses)
	return qa{"what can you do with " + u.a + "?", "with " + u.a + ", you can " + u.b + ".", u.b + "."}
}

func askTrade(r *rng) qa {
	t := pick(r, trades)
	return pick(r, []qa{
		{"who " + t.does + "?", "the " + t.who + " " + t.does + ".", "the " + t.who + "."},
		{"where does the " + t.who + " work?", "the " + t.who + " works " + t.where + ".", t.where + "."},
		{"what does the " + t.who + " need?", "the " + t.who + " needs " + t.tool + ".", t.tool + "."},
	})
}

func askFood(r *rng) qa {
	f := pick(r, foods)
	return qa{"how is the " + f.noun + "?", "the " + f.noun + " is " + f.taste + ".", f.taste + "."}
}

// counting tells of things that are given and taken, up to ten, and asks for the numbers.
func counting(r *rng) string {
	sc := newScene(r)
	c := pick(r, countables)
	start := 2 + r.intN(7)
	more := 1 + r.intN(10-start)
	less := 1 + r.intN(start+more-1)
	sc = sc.with(scene{
		"a": amount(start, c), "b": numbers[more], "c": amount(start+more, c), "d": numbers[less], "e": amount(start+more-less, c),
		"cs": c.b,
	})
	text := pick(r, []string{
		"{h} has {a}. {f} gives {him} {b} more. Now {h} has {c}.",
		"there are {a} on the table. {h} puts {b} more on the table. Now there are {c}.",
		"in the morning, {h} finds {a}. In the evening, {he} finds {b} more. Now {he} has {c}.",
	})
	asked := []qa{
		{"how many {cs} are there at first?", "at first, there are {a}.", "{a}."},
		{"how many {cs} are there in the end?", "in the end, there <be> {e}.", "{e}."},
		{"who takes {d} of the {cs}?", "{f} takes {d} of the {cs}.", "{f}."},
	}
	be := "are"
	if start+more-less == 1 {
		be = "is"
	}
	asked[1].full = strings.ReplaceAll(asked[1].full, "<be>", be)
	text += pick(r, []string{
		" Then {f} takes {d} of the {cs}. In the end, there <be> {e}.",
		" But {f} takes {d} of them, so there <be> only {e} in the end.",
	})
	text = strings.ReplaceAll(text, "<be>", be)
	return expand(r, text+" <sky>", sc) + questions(r, asked, 1+r.intN(2), sc)
}

// amount writes a number with its noun: "one egg", "two eggs".
func amount(n int, c pair) string {
	if n == 1 {
		return numbers[1] + " " + c.a
	}
	return numbers[n] + " " + c.b
}
