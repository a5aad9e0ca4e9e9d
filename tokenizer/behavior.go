package tokenizer

// behavior says what becomes of the delimiters that a split finds.
type behavior int

const (
	remove     behavior = iota // drop them
	isolate                    // each is a piece of its own
	mergePrev                  // each joins the part before it
	mergeNext                  // each joins the part after it
	contiguous                 // a run of them is one piece
)

func parseBehavior(name string) (behavior, error) {
	switch name {
	case "Removed":
		return remove, nil
	case "Isolated":
		return isolate, nil
	case "MergedWithPrevious":
		return mergePrev, nil
	case "MergedWithNext":
		return mergeNext, nil
	case "Contiguous":
		return contiguous, nil
	}
	return 0, unsupported("split behavior", name, "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
}

// apply passes on the parts that each yields (adjacent parts of p.text, matches and gaps) after joining them. The parts lie one
// after another in p.text, so a joined part is a longer slice of it.
func (b behavior) apply(p piece, out func(piece) error, each func(yield func(part string, match bool) error) error) error {
	at, from := 0, 0 // p.text[from:at] is held back to be joined
	last := false    // whether the part before was a match
	flush := func(to int) error {
		if from == to {
			return nil
		}
		q := piece{p.text[from:to], p.first && from == 0}
		from = to
		return out(q)
	}
	err := each(func(part string, match bool) error {
		start := at
		at += len(part)
		joins := false
		switch b {
		case remove:
			if match {
				err := flush(start)
				from = at
				return err
			}
		case mergePrev:
			joins = match && !last
		case mergeNext:
			joins = last && !match
		case contiguous:
			joins = match == last
		}
		last = match
		if joins {
			return nil
		}
		return flush(start)
	})
	if err != nil {
		return err
	}
	return flush(at)
}
