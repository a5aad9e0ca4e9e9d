package evaluate

import (
	"bufio"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// question is a row of a multiple choice file.
type question struct {
	prompt  string
	choices []string
	right   int
}

// task is a row of a file of answers.
type task struct{ prompt, answer string }

// lines calls f for each JSON object of a file; an error of f names the line.
func lines(fsys vfs.FS, name string, limit int, f func(row map[string]json.RawMessage) error) error {
	text, err := readText(fsys, name)
	if err != nil {
		return inputError{err}
	}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, len(text)+1)
	rows := 0
	for n := 1; sc.Scan() && (limit == 0 || rows < limit); n++ {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		var row map[string]json.RawMessage
		if err := json.Unmarshal(sc.Bytes(), &row); err != nil {
			return badFile("%s:%d: not a JSON object: %w; the file holds one object a line", name, n, err)
		}
		if err := f(row); err != nil {
			return badFile("%s:%d: %w", name, n, err)
		}
		rows++
	}
	if err := sc.Err(); err != nil {
		return badFile("%s: %w", name, err)
	}
	if rows == 0 {
		return badFile("%s: %w", name, errNoRow)
	}
	return nil
}

// text returns the first of the keys that holds a string.
func text(row map[string]json.RawMessage, keys ...string) (string, bool) {
	for _, k := range keys {
		var s string
		if raw, ok := row[k]; ok && json.Unmarshal(raw, &s) == nil {
			return s, true
		}
	}
	return "", false
}

func keysOf(row map[string]json.RawMessage) string {
	var names []string
	for k := range row {
		names = append(names, k)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Keys under which common data sets keep the parts of a question.
var (
	promptKeys = []string{"question", "prompt", "query", "context", "ctx", "instruction", "sentence"}
	choiceKeys = []string{"choices", "endings", "options", "candidates"}
	rightKeys  = []string{"answer", "label", "gold", "answerKey", "answer_index", "target"}
	answerKeys = []string{"answer", "completion", "output", "response", "target"}
)

// questionOf reads a row: a prompt, a list of choices (or ARC's {"text": [...], "label": [...]}) and the right one as a number from 0, as its
// label, or as its text.
func questionOf(row map[string]json.RawMessage) (q question, err error) {
	var ok bool
	if q.prompt, ok = text(row, promptKeys...); !ok {
		return q, fmt.Errorf("has no question; expected a text under one of %s, found %s", strings.Join(promptKeys, ", "), keysOf(row))
	}
	var labels []string
	for _, k := range choiceKeys {
		var arc struct{ Text, Label []string }
		switch raw := row[k]; {
		case raw == nil:
			continue
		case json.Unmarshal(raw, &q.choices) == nil:
		case json.Unmarshal(raw, &arc) == nil:
			q.choices, labels = arc.Text, arc.Label
		default:
			return q, fmt.Errorf("%s is not a list of texts", k)
		}
		break
	}
	if len(q.choices) < 2 {
		return q, fmt.Errorf("has %d choices, expected two texts or more under one of %s", len(q.choices), strings.Join(choiceKeys, ", "))
	}
	for _, k := range rightKeys {
		if raw := row[k]; raw != nil {
			q.right, err = rightOf(raw, q.choices, labels)
			return q, err
		}
	}
	return q, fmt.Errorf("does not say which choice is right; expected one of %s", strings.Join(rightKeys, ", "))
}

func rightOf(raw json.RawMessage, choices, labels []string) (int, error) {
	var n int
	if json.Unmarshal(raw, &n) == nil {
		if n < 0 || n >= len(choices) {
			return 0, fmt.Errorf("the right choice is number %d of %d; they count from 0", n, len(choices))
		}
		return n, nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return 0, fmt.Errorf("the right choice is %.40s, expected a number from 0, a label or the text of a choice", raw)
	}
	if i := slices.Index(labels, s); i >= 0 {
		return i, nil
	}
	if i := slices.Index(choices, s); i >= 0 {
		return i, nil
	}
	if _, err := fmt.Sscanf(s, "%d", &n); err == nil && fmt.Sprint(n) == s && n >= 0 && n < len(choices) {
		return n, nil
	}
	if len(s) == 1 && s[0] >= 'A' && int(s[0]-'A') < len(choices) {
		return int(s[0] - 'A'), nil
	}
	return 0, fmt.Errorf("the right choice %q is none of the %d choices", s, len(choices))
}

// taskOf reads a row: a prompt and its answer; Alpaca's "input" is joined to the instruction by an empty line.
func taskOf(row map[string]json.RawMessage) (t task, err error) {
	var ok bool
	if t.prompt, ok = text(row, promptKeys...); !ok {
		return t, fmt.Errorf("has no prompt; expected a text under one of %s, found %s", strings.Join(promptKeys, ", "), keysOf(row))
	}
	if input, ok := text(row, "input"); ok && input != "" {
		t.prompt += "\n\n" + input
	}
	if t.answer, ok = text(row, answerKeys...); !ok {
		return t, fmt.Errorf("has no answer; expected a text under one of %s, found %s", strings.Join(answerKeys, ", "), keysOf(row))
	}
	return t, nil
}
