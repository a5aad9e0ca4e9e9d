package corpus

import "strings"

// Row is one example of the fine-tuning set: what the model is given and what it must continue with. The completion begins with
// the space that separates it from the prompt and is followed by the end-of-text token.
type Row struct {
	Prompt     string `json:"prompt"`
	Completion string `json:"completion"`
}

// Sizes of the fine-tuning set.
const (
	TrainRows   = 2400
	HeldOutRows = 100
)

// FineTune returns the built-in fine-tuning set: a sentence or a few ("Story: ..."), to be turned into a record of four facts,
//
//	Story: Mia saw a red fox near the pond.
//	List: who: Mia, what: fox, colour: red, where: near the pond.
//
// The pretraining text asks for these facts one at a time and in sentences; it never shows the record nor its label. Held-out
// rows use the same words and sentence forms, but no held-out combination of the four facts occurs in a training row, so an exact
// match is read from the prompt and not remembered. Equal seeds give equal rows.
func FineTune(seed uint64) (train, heldOut []Row) {
	r := newRNG(seed, streamFineTune)
	seen := map[string]struct{}{}
	rows := make([]Row, 0, TrainRows+HeldOutRows)
	for len(rows) < cap(rows) {
		row := record(r)
		if _, dup := seen[row.Completion]; dup {
			continue
		}
		seen[row.Completion] = struct{}{}
		rows = append(rows, row)
	}
	return rows[HeldOutRows:], rows[:HeldOutRows:HeldOutRows]
}

// record draws one row. Its four facts are bound first; the place is told in the record as in the story.
func record(r *rng) Row {
	sc := sighted(r, newScene(r))
	told := finish("story: " + expand(r, pick(r, sightings), sc))
	return Row{
		Prompt: told + "\nList:",
		Completion: " who: " + sc["h"] + ", what: " + sc["thing"] + ", colour: " + sc["colour"] + ", where: " +
			phrase(told, sc["place"]) + ".",
	}
}

// phrase returns a place ("the pond") with the preposition before it in the story, in small letters: "near the pond".
func phrase(told, place string) string {
	before, _, found := strings.Cut(told, " "+place)
	if !found {
		return place
	}
	return strings.ToLower(before[strings.LastIndexByte(before, ' ')+1:]) + " " + place
}
