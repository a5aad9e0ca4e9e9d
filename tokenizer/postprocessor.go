package tokenizer

import (
	"encoding/json"
	"fmt"
)

// wrapping holds the ids that the post-processor puts around a single sequence.
type wrapping struct{ prefix, suffix []int32 }

// maxWrapping caps the ids that a file may put around every text.
const maxWrapping = 1 << 10

// parsePostProcessor reads the post_processor of a tokenizer.json; null adds nothing. valid reports whether an id exists.
func parsePostProcessor(raw json.RawMessage, depth int, valid func(int32) bool) (wrapping, error) {
	var w wrapping
	name, err := componentType(raw, "post_processor", depth)
	if err != nil || name == "null" {
		return w, err
	}
	switch name {
	case "ByteLevel":
		return w, nil // it moves offsets only
	case "TemplateProcessing":
		w, err = parseTemplate(raw)
	case "BertProcessing", "RobertaProcessing":
		w, err = parseBertProcessing(raw)
	case "Sequence":
		return parsePostSequence(raw, depth, valid)
	default:
		return w, unsupported("post_processor", name, "Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing")
	}
	if err != nil {
		return w, err
	}
	for _, id := range append(append([]int32(nil), w.prefix...), w.suffix...) {
		if !valid(id) {
			return w, fmt.Errorf("tokenizer: post_processor %s adds id %d, which is not in the vocabulary", name, id)
		}
	}
	return w, nil
}

func parsePostSequence(raw json.RawMessage, depth int, valid func(int32) bool) (wrapping, error) {
	var w wrapping
	var c struct {
		Type       string
		Processors []json.RawMessage
	}
	if err := strict(raw, &c); err != nil {
		return w, err
	}
	for _, r := range c.Processors {
		outer, err := parsePostProcessor(r, depth+1, valid)
		if err != nil {
			return w, err
		}
		w.prefix = append(append([]int32(nil), outer.prefix...), w.prefix...)
		w.suffix = append(w.suffix, outer.suffix...)
		if len(w.prefix)+len(w.suffix) > maxWrapping {
			return w, fmt.Errorf("tokenizer: post_processor adds more than %d ids", maxWrapping)
		}
	}
	return w, nil
}

// templatePart is one entry of a template: exactly one of the fields is set.
type templatePart struct {
	SpecialToken *templateRef
	Sequence     *templateRef
}

// templateRef names a token or a sequence; the type id is for models that tell two sequences apart, which this package does not
// return.
type templateRef struct {
	ID     string `json:"id"`
	TypeID int    `json:"type_id"`
}

func parseTemplate(raw json.RawMessage) (wrapping, error) {
	var w wrapping
	var c struct {
		Type          string
		Single        []templatePart
		Pair          json.RawMessage
		SpecialTokens map[string]struct {
			ID     string
			IDs    []int32
			Tokens []string
		} `json:"special_tokens"`
	}
	if err := strict(raw, &c); err != nil {
		return w, err
	}
	seen := false
	for _, part := range c.Single {
		switch {
		case part.Sequence != nil && part.Sequence.ID == "A" && !seen:
			seen = true
		case part.SpecialToken != nil:
			token, ok := c.SpecialTokens[part.SpecialToken.ID]
			if !ok {
				return w, fmt.Errorf("tokenizer: TemplateProcessing names %q, which its special_tokens lack", part.SpecialToken.ID)
			}
			if seen {
				w.suffix = append(w.suffix, token.IDs...)
			} else {
				w.prefix = append(w.prefix, token.IDs...)
			}
		default:
			return w, unsupported("TemplateProcessing", "part of single", "SpecialToken", "one Sequence A")
		}
		if len(w.prefix)+len(w.suffix) > maxWrapping {
			return w, fmt.Errorf("tokenizer: TemplateProcessing adds more than %d ids", maxWrapping)
		}
	}
	if !seen {
		return w, unsupported("TemplateProcessing", "without Sequence A", "one Sequence A")
	}
	return w, nil
}

func parseBertProcessing(raw json.RawMessage) (wrapping, error) {
	var w wrapping
	var c struct {
		Type           string
		Sep, Cls       []json.RawMessage
		TrimOffsets    bool `json:"trim_offsets"`
		AddPrefixSpace bool `json:"add_prefix_space"`
	}
	if err := strict(raw, &c); err != nil {
		return w, err
	}
	for _, end := range []struct {
		pair []json.RawMessage
		to   *[]int32
	}{{c.Cls, &w.prefix}, {c.Sep, &w.suffix}} {
		var id int32
		if len(end.pair) != 2 {
			return w, fmt.Errorf("tokenizer: %s: sep and cls are pairs of a token and an id", c.Type)
		}
		if err := json.Unmarshal(end.pair[1], &id); err != nil {
			return w, fmt.Errorf("tokenizer: %s: %w", c.Type, err)
		}
		*end.to = append(*end.to, id)
	}
	return w, nil
}
