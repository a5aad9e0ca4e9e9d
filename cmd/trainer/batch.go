package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// maxPrompts bounds a file of prompts.
const maxPrompts = 1 << 30

// batch is a file of prompts or conversations.
type batch struct {
	queries  []trainer.Query
	messages [][]json.RawMessage // of conversations, as the file has them
	where    []string            // file and line of each
}

// answerAll writes a JSON object for each row.
func (p *program) answerAll(ctx context.Context, w *trainer.Writer, b *batch) error {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	err := w.AnswerAll(ctx, b.queries, func(i int, a trainer.Answer) error {
		if b.messages == nil {
			return enc.Encode(a)
		}
		reply, err := data.Say(data.Assistant, a.Text)
		if err != nil {
			return err
		}
		return enc.Encode(struct {
			Messages     []json.RawMessage `json:"messages"`
			PromptTokens int               `json:"prompt_tokens"`
			Reused       int               `json:"reused_tokens"`
			Tokens       int               `json:"tokens"`
			Finish       string            `json:"finish"`
			Adapter      string            `json:"adapter"`
		}{append(b.messages[i], reply.Fields), a.PromptTokens, a.Reused, a.Tokens, a.Finish, a.Adapter})
	})
	var bad *trainer.QueryError
	if errors.As(err, &bad) {
		return fmt.Errorf("%s: %w", b.where[bad.Index], bad.Err)
	}
	return err
}

// readPrompts reads a file, or standard input for "-".
func (p *program) readPrompts(name string) ([]byte, error) {
	if name != "-" {
		return vfs.ReadFile(vfs.OS{}, name, maxPrompts)
	}
	raw, err := io.ReadAll(io.LimitReader(p.in, maxPrompts+1))
	if err == nil && len(raw) > maxPrompts {
		err = fmt.Errorf("standard input has more than %d bytes of prompts; give them in parts", maxPrompts)
	}
	return raw, err
}

// promptRows reads one prompt a line; empty lines are left out.
func (p *program) promptRows(name string) (*batch, error) {
	raw, err := p.readPrompts(name)
	if err != nil {
		return nil, err
	}
	b := &batch{}
	err = eachLine(raw, func(n int, line string) error {
		q := trainer.Query{Prompt: line}
		if strings.HasPrefix(line, "{") && json.Valid([]byte(line)) {
			var row struct {
				Prompt  *string
				Adapter string
			}
			if err := json.Unmarshal([]byte(line), &row); err != nil || row.Prompt == nil {
				return fmt.Errorf("%s:%d: this JSON object has no text under \"prompt\"; write {\"prompt\": \"...\"}, or the prompt as it is", name, n)
			}
			q.Prompt, q.Adapter = *row.Prompt, row.Adapter
		}
		b.queries, b.where = append(b.queries, q), append(b.where, fmt.Sprintf("%s:%d", name, n))
		return nil
	})
	if err == nil && len(b.queries) == 0 {
		err = fmt.Errorf("%s: holds no prompt; write one a line", name)
	}
	return b, err
}

// messageRows reads conversations: one JSON object a line, or one JSON value as the whole file, which may be a list of messages or of
// conversations.
func (p *program) messageRows(name string) (*batch, error) {
	raw, err := p.readPrompts(name)
	if err != nil {
		return nil, err
	}
	b := &batch{}
	if whole := bytes.TrimSpace(raw); json.Valid(whole) {
		err = b.value(name, whole)
	} else {
		err = eachLine(raw, func(n int, line string) error { return b.conversation(name, n, []byte(line)) })
	}
	if err == nil && len(b.queries) == 0 {
		err = fmt.Errorf("%s: holds no conversation; write one a line, {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}]}", name)
	}
	return b, err
}

// value reads the one JSON value of a file.
func (b *batch) value(name string, raw []byte) error {
	var list []map[string]json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return b.conversation(name, 1, raw)
	}
	if len(list) > 0 && list[0]["messages"] == nil && list[0]["conversations"] == nil {
		return b.row(&data.Row{File: name, Line: 1, Fields: map[string]json.RawMessage{"messages": raw}})
	}
	for i, fields := range list {
		if err := b.row(&data.Row{File: name, Line: i + 1, Fields: fields}); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) conversation(name string, line int, raw []byte) error {
	r := &data.Row{File: name, Line: line}
	if err := json.Unmarshal(raw, &r.Fields); err != nil {
		return fmt.Errorf("%s:%d: is no JSON object: %w; write {\"messages\": [...]}", name, line, err)
	}
	return b.row(r)
}

// row takes a conversation that waits for a reply, with the adapter that it names.
func (b *batch) row(r *data.Row) error {
	c, err := r.Conversation()
	if err != nil {
		return err
	}
	n := len(c.Messages)
	if n == 0 {
		return r.Errorf("has no message to answer")
	}
	if c.Messages[n-1].Role == data.Assistant {
		return r.Errorf("ends with an assistant's message, so there is nothing to answer; remove that message")
	}
	adapter, err := r.Str("adapter", true)
	if err != nil {
		return err
	}
	raw := make([]json.RawMessage, n, n+1)
	for i, m := range c.Messages {
		raw[i] = m.Fields
	}
	b.queries = append(b.queries, trainer.Query{Conversation: &c, Adapter: adapter})
	b.messages, b.where = append(b.messages, raw), append(b.where, fmt.Sprintf("%s:%d", r.File, r.Line))
	return nil
}

// eachLine calls f for every line that is not empty.
func eachLine(raw []byte, f func(n int, line string) error) error {
	sc := bufio.NewScanner(bytes.NewReader(raw))
	sc.Buffer(nil, len(raw)+1)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSuffix(sc.Text(), "\r")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if err := f(n, line); err != nil {
			return err
		}
	}
	return sc.Err()
}
