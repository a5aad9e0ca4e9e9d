package trainer

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Chat is a conversation with a model, turn by turn. Each turn is rendered with those before it by the chat template; keys and values of what
// has not changed stay in the writer's cache. Not for concurrent use.
type Chat struct {
	w      *Writer
	system string
	turns  []data.Message // without the system's
}

// chatReserve is how many tokens a conversation has room for before its cache has to grow.
const chatReserve = 2048

// NewChat begins a conversation. system is what the model is told first, "" for what the template says by itself.
func (w *Writer) NewChat(system string) (*Chat, error) {
	if _, err := w.chatForm(); err != nil {
		return nil, err
	}
	w.reserve = chatReserve
	return &Chat{w: w, system: system}, nil
}

// Say adds the user's turn and the model's reply, which emit gets piece by piece. Where ctx ends the reply early, what was written of it stays
// a turn, and the error is that of ctx. Other errors, and a reply without a word, leave the conversation as it was.
func (c *Chat) Say(ctx context.Context, text string, emit func(text string) error) (Answer, error) {
	user, err := data.Say("user", text)
	if err != nil {
		return Answer{}, err
	}
	before := c.turns
	c.turns = append(c.turns[:len(before):len(before)], user)
	conv, err := c.conversation()
	var a Answer
	if err == nil {
		a, err = c.w.Answer(ctx, Query{Conversation: &conv}, emit)
	}
	if err != nil && (ctx.Err() == nil || a.Text == "") {
		c.turns = before
		return a, err
	}
	reply, sayErr := data.Say(data.Assistant, a.Text)
	if sayErr != nil {
		c.turns = before
		return a, sayErr
	}
	c.turns = append(c.turns, reply)
	return a, err
}

// conversation is the system's turn and the others.
func (c *Chat) conversation() (conv data.Conversation, err error) {
	if c.system != "" {
		m, err := data.Say("system", c.system)
		if err != nil {
			return conv, err
		}
		conv.Messages = append(conv.Messages, m)
	}
	conv.Messages = append(conv.Messages, c.turns...)
	return conv, nil
}

// Turns is how many questions were answered.
func (c *Chat) Turns() int { return len(c.turns) / 2 }

// System begins anew with another text for the system.
func (c *Chat) System(text string) { c.system, c.turns = text, nil }

// Reset begins anew.
func (c *Chat) Reset() { c.turns = nil }

// Undo takes the last question and its answer back; false where there is none.
func (c *Chat) Undo() bool {
	if len(c.turns) == 0 {
		return false
	}
	c.turns = c.turns[:len(c.turns)-2]
	return true
}

// JSON is the conversation as a line of messages, the form that training and --messages read.
func (c *Chat) JSON() ([]byte, error) {
	conv, err := c.conversation()
	if err != nil {
		return nil, err
	}
	row := struct {
		Messages []json.RawMessage `json:"messages"`
	}{Messages: []json.RawMessage{}}
	for _, m := range conv.Messages {
		row.Messages = append(row.Messages, m.Fields)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err = enc.Encode(row)
	return b.Bytes(), err
}

// Save writes JSON to a file, whole or not at all.
func (c *Chat) Save(fsys vfs.FS, name string) error {
	raw, err := c.JSON()
	if err == nil {
		err = withCode(config.ExitDisk, vfs.WriteAtomic(vfs.Or(fsys), name, raw))
	}
	return err
}
