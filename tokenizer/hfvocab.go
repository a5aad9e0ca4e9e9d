package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// jsonText walks JSON that has already been checked to be well-formed. It is used for the two large parts of a tokenizer.json, where
// the general decoder takes most of the loading time.
type jsonText struct {
	raw []byte
	at  int
}

// next skips space and separators and returns the byte that starts the next value, or 0 at the end.
func (j *jsonText) next() byte {
	for j.at < len(j.raw) {
		switch c := j.raw[j.at]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			j.at++
		default:
			return c
		}
	}
	return 0
}

// text reads a string.
func (j *jsonText) text() (string, error) {
	if j.next() != '"' {
		return "", fmt.Errorf("tokenizer: expected a string, not %s", clip(j.raw[j.at:]))
	}
	start := j.at
	escaped := false
	for j.at++; j.raw[j.at] != '"'; j.at++ {
		if j.raw[j.at] == '\\' {
			escaped = true
			j.at++
		}
	}
	j.at++
	body := j.raw[start+1 : j.at-1]
	if !escaped {
		return string(bytes.ToValidUTF8(body, []byte("\uFFFD"))), nil
	}
	var s string
	err := json.Unmarshal(j.raw[start:j.at], &s)
	return s, err
}

// id reads an integer of 32 bits.
func (j *jsonText) id() (int32, error) {
	j.next()
	start := j.at
	for j.at < len(j.raw) && strings.IndexByte(",}] \t\r\n", j.raw[j.at]) < 0 {
		j.at++
	}
	n, err := strconv.ParseInt(string(j.raw[start:j.at]), 10, 32)
	return int32(n), err
}

// vocabulary is a JSON object of token to id in which a repeated token is an error.
type vocabulary map[string]int32

// UnmarshalJSON reads the object token by token.
func (v *vocabulary) UnmarshalJSON(raw []byte) error {
	j := jsonText{raw: raw}
	if j.next() != '{' {
		return fmt.Errorf("tokenizer: vocab is an object of token to id, not %s", clip(raw))
	}
	j.at++
	*v = vocabulary{}
	for j.next() != '}' {
		token, err := j.text()
		if err != nil {
			return err
		}
		id, err := j.id()
		if err != nil {
			return fmt.Errorf("tokenizer: vocab: the id of %q: %w", token, err)
		}
		if _, ok := (*v)[token]; ok {
			return fmt.Errorf("tokenizer: vocab lists the token %q twice", token)
		}
		(*v)[token] = id
	}
	return nil
}

// mergePair is written as "left right" or ["left", "right"].
type mergePair struct{ left, right string }

type mergeList []mergePair

// UnmarshalJSON reads a list of merges in either spelling.
func (m *mergeList) UnmarshalJSON(raw []byte) error {
	j := jsonText{raw: raw}
	if j.next() != '[' {
		return fmt.Errorf("tokenizer: merges is a list, not %s", clip(raw))
	}
	j.at++
	for j.next() != ']' {
		start := j.at
		pair, ok, err := j.pair()
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("tokenizer: merge %d joins two tokens, not %s", len(*m), clip(raw[start:]))
		}
		*m = append(*m, pair)
	}
	return nil
}

func (j *jsonText) pair() (p mergePair, ok bool, err error) {
	if j.next() != '[' {
		s, err := j.text()
		left, right, ok := strings.Cut(s, " ")
		return mergePair{left, right}, ok && !strings.Contains(right, " "), err
	}
	j.at++
	for _, part := range []*string{&p.left, &p.right} {
		if j.next() == ']' {
			return p, false, nil
		}
		if *part, err = j.text(); err != nil {
			return p, false, err
		}
	}
	if j.next() != ']' {
		return p, false, nil
	}
	j.at++
	return p, true, nil
}
