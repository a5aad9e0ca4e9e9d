package corpus

// cast binds two people of different pronouns: {h} {he} {him} {his} for the first, {f} {fhe} {fhim} {fhis} for the second.
func cast(r *rng) scene {
	she := func() person { return person{pick(r, girls), "she", "her", "her"} }
	he := func() person { return person{pick(r, boys), "he", "him", "his"} }
	h, f := she(), he()
	if r.chance(50) {
		h, f = f, h
	}
	return scene{"h": h.name, "he": h.he, "him": h.him, "his": h.his, "f": f.name, "fhe": f.he, "fhim": f.him, "fhis": f.his}
}

// newScene binds every name that the rules use: people, two places, an animal, two things, food, weather, time and a trade.
func newScene(r *rng) scene {
	sc := cast(r)
	where, objects, tints := sample(r, places, 2), sample(r, things, 2), sample(r, colours, 2)
	a, w, m, t, v := pick(r, animals), pick(r, weathers), pick(r, foods), pick(r, trades), pick(r, verbs)
	return sc.with(scene{
		"at": at(where[0]), "to": to(where[0]), "place": "the " + where[0].noun,
		"at2": at(where[1]), "to2": to(where[1]), "place2": "the " + where[1].noun,
		"thing": objects[0], "colour": tints[0], "thing2": objects[1], "colour2": tints[1],
		"animal": a.name, "animals": a.plural, "feed": a.food, "home": a.home, "coat": pick(r, a.coats), "can": a.can,
		"weather": w.adj, "sign": w.sign, "effect": w.effect, "wear": w.wear,
		"meal": m.some, "dish": m.noun, "taste": m.taste,
		"trade": t.who, "shop": t.where, "tool": t.tool,
		"saw": v.past, "see": v.base,
		"day": pick(r, days), "time": pick(r, dayTimes), "season": w.season, "n": numbers[2+r.intN(9)],
	})
}

func at(p place) string { return p.prep + " the " + p.noun }

// to is the way to a place; all of them take the article.
func to(p place) string { return "to the " + p.noun }
