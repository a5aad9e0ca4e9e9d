package data

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Conversation is a row of messages, ready to be rendered by a chat template.
type Conversation struct {
	Messages []Message
	Tools    json.RawMessage            // list of tools that the template describes to the model; nil = none
	Extra    map[string]json.RawMessage // further variables of the template, from the row's chat_template_kwargs
}

// Message is one turn.
type Message struct {
	Role    string
	Content string          // text of the turn, "" where there is only a tool call
	Fields  json.RawMessage // the object that the template sees: the row's own, texts joined, arguments of calls as objects
	Train   TrainFlag
}

// TrainFlag is what a message says of itself by the key train or weight.
type TrainFlag int8

// The flags: without one, the mask decides.
const (
	TrainByMask TrainFlag = iota
	TrainYes
	TrainNo
)

// Assistant is the role whose turns a model learns to write.
const Assistant = "assistant"

// roleNames maps the role names that other layouts use.
var roleNames = map[string]string{
	"human": "user", "gpt": Assistant, "chatgpt": Assistant, "bot": Assistant, "model": Assistant, "function_response": "tool", "observation": "tool",
	"function_call": Assistant,
}

// maxMessages bounds the turns of a row: templates may take time that grows with the square.
const maxMessages = 4096

// maxKeys bounds the keys of a message or call, which are looked for one after another.
const maxKeys = 256

// field is a key of a JSON object, in the order of the file.
type field struct {
	key string
	val json.RawMessage
}

// object reads a JSON object with its keys in order. Of a key that comes twice the last value counts, as JSON readers have it. raw has
// been parsed before, so only its structure is looked at.
func object(raw json.RawMessage) ([]field, error) {
	if raw[0] != '{' {
		return nil, fmt.Errorf("must be an object, is %s", kindOf(raw))
	}
	var out []field
	for i := skipSpace(raw, 1); raw[i] != '}'; i = skipSpace(raw, i) {
		if raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
		if len(out) == maxKeys {
			return nil, fmt.Errorf("has more than %d keys", maxKeys)
		}
		end := skipValue(raw, i)
		key := string(raw[i+1 : end-1])
		if strings.Contains(key, `\`) {
			if err := json.Unmarshal(raw[i:end], &key); err != nil {
				return nil, err
			}
		}
		i = skipSpace(raw, skipSpace(raw, end)+1) // behind the colon
		end = skipValue(raw, i)
		out = set(out, key, raw[i:end:end])
		i = end
	}
	return out, nil
}

func skipSpace(raw []byte, i int) int {
	for raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == '\r' {
		i++
	}
	return i
}

// skipValue is where the valid JSON value that begins at i ends.
func skipValue(raw []byte, i int) int {
	depth := 0
	for {
		switch raw[i] {
		case '"':
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		default:
			for i+1 < len(raw) && strings.IndexByte(",:}] \n\t\r", raw[i+1]) < 0 {
				i++
			}
		}
		if i++; depth == 0 {
			return i
		}
		for strings.IndexByte(" \n\t\r,:", raw[i]) >= 0 {
			i++
		}
	}
}

func set(fields []field, key string, v json.RawMessage) []field {
	for i := range fields {
		if fields[i].key == key {
			fields[i].val = v
			return fields
		}
	}
	return append(fields, field{key, v})
}

func get(fields []field, key string) json.RawMessage {
	for _, f := range fields {
		if f.key == key && !bytes.Equal(f.val, []byte("null")) {
			return f.val
		}
	}
	return nil
}

// encode writes the object; values are raw JSON and stay as they are.
func encode(fields []field) (json.RawMessage, error) {
	out := []byte{'{'}
	for i, f := range fields {
		if i > 0 {
			out = append(out, ',')
		}
		k, err := quote(f.key)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, k...), ':'), f.val...)
	}
	return append(out, '}'), nil
}

// quote is a string as JSON, without the escapes that HTML needs.
func quote(s string) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// list returns the elements of the list at key. A string that holds a list as JSON is read as one: columns of CSV, and of data sets with
// a fixed schema, have lists so.
func (r *Row) list(key string) ([]json.RawMessage, error) {
	if !r.Has(key) {
		return nil, r.missing(key)
	}
	v, err := r.unquoted(key, r.Fields[key], '[')
	if err != nil {
		return nil, err
	}
	if v[0] != '[' {
		return nil, r.Errorf("%q must be a list, is %s", key, kindOf(v))
	}
	var out []json.RawMessage
	if err := json.Unmarshal(v, &out); err != nil {
		return nil, r.Errorf("%q: %v", key, err)
	}
	return out, nil
}

// unquoted returns the JSON inside a string that begins with the character, else v.
func (r *Row) unquoted(what string, v json.RawMessage, begin byte) (json.RawMessage, error) {
	if v[0] != '"' {
		return v, nil
	}
	s, err := r.text(what, v)
	if err != nil {
		return nil, err
	}
	s = strings.TrimSpace(s)
	if s == "" || s[0] != begin || !json.Valid([]byte(s)) {
		return v, nil
	}
	return json.RawMessage(s), nil
}

// messages reads a list of messages in OpenAI's layout.
func (r *Row) messages(key string) ([]Message, error) {
	items, err := r.list(key)
	if err != nil {
		return nil, err
	}
	if len(items) > maxMessages {
		return nil, r.Errorf("%q has %d messages, at most %d are read; split the conversation", key, len(items), maxMessages)
	}
	out := make([]Message, len(items))
	for i, raw := range items {
		if out[i], err = r.message(fmt.Sprintf("%s[%d]", key, i), raw); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// message reads one message: role or from, content or value, and what else it has.
func (r *Row) message(where string, raw json.RawMessage) (m Message, err error) {
	fields, err := object(raw)
	if err != nil {
		return m, r.Errorf("%s %v", where, err)
	}
	roleKey, textKey := "role", "content"
	if get(fields, "role") == nil && get(fields, "from") != nil {
		roleKey, textKey = "from", "value"
	}
	role := get(fields, roleKey)
	if role == nil {
		return m, r.Errorf("%s has no role (it has %s)", where, keyList(keysOf(fields)))
	}
	if m.Role, err = r.text(where+".role", role); err != nil {
		return m, err
	}
	called := m.Role == "function_call"
	if std, ok := roleNames[m.Role]; ok {
		m.Role = std
	}
	whole := true
	if m.Content, whole, err = r.content(where, get(fields, textKey)); err != nil {
		return m, err
	}
	if m.Train, err = r.trainFlag(where, fields); err != nil {
		return m, err
	}
	text, err := quote(m.Content)
	if err != nil {
		return m, r.Errorf("%s: %v", where, err)
	}
	if !whole {
		text = get(fields, textKey)
	}
	return m, r.fields(where, &m, text, fields, called)
}

// fields makes the object that the template sees: role and content first under their usual names, the rest as it is.
func (r *Row) fields(where string, m *Message, text json.RawMessage, fields []field, called bool) error {
	role, err := quote(m.Role)
	if err != nil {
		return err
	}
	calls := get(fields, "tool_calls")
	if called {
		if calls, err = r.callFromText(where, m); err != nil {
			return err
		}
		text = json.RawMessage(`""`)
	}
	out := []field{{"role", role}, {"content", text}}
	for _, f := range fields {
		switch f.key {
		case "role", "from", "content", "value", "train", "training", "weight", "tool_calls":
		default:
			if !bytes.Equal(f.val, []byte("null")) {
				out = append(out, f)
			}
		}
	}
	if calls != nil {
		if calls, err = r.toolCalls(where+".tool_calls", calls); err != nil {
			return err
		}
		if calls != nil {
			out = append(out, field{"tool_calls", calls})
		}
	}
	if m.Fields, err = encode(out); err != nil {
		return r.Errorf("%s: %v", where, err)
	}
	return nil
}

// content is a text, null, or a list of parts. Texts are joined; whole is false where other parts stand between them, which the template
// has to read itself.
func (r *Row) content(where string, v json.RawMessage) (text string, whole bool, err error) {
	where += ".content"
	if v == nil {
		return "", true, nil
	}
	if v[0] != '[' {
		text, err = r.text(where, v)
		return text, true, err
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(v, &parts); err != nil {
		return "", false, r.Errorf("%s: %v", where, err)
	}
	whole = true
	var b strings.Builder
	for i, raw := range parts {
		s, isText, err := r.part(fmt.Sprintf("%s[%d]", where, i), raw)
		if err != nil {
			return "", false, err
		}
		whole = whole && isText
		b.WriteString(s)
	}
	return b.String(), whole, nil
}

// part is one element of a content.
func (r *Row) part(where string, raw json.RawMessage) (text string, isText bool, err error) {
	if raw[0] == '"' {
		text, err = r.text(where, raw)
		return text, true, err
	}
	fields, err := object(raw)
	if err != nil {
		return "", false, r.Errorf("%s %v", where, err)
	}
	if t := get(fields, "text"); t != nil {
		text, err = r.text(where+".text", t)
		return text, true, err
	}
	kind := string(get(fields, "type"))
	for _, media := range []string{"image", "audio", "video", "file"} {
		if kind == "" || strings.HasPrefix(strings.Trim(kind, `"`), media) {
			return "", false, r.Errorf("%s is no text (type %s); only text is trained on", where, kind)
		}
	}
	return "", false, nil
}

// trainFlag reads train (or training) as a boolean, or weight as 0 or 1.
func (r *Row) trainFlag(where string, fields []field) (TrainFlag, error) {
	for _, key := range []string{"train", "training", "weight"} {
		v := get(fields, key)
		if v == nil {
			continue
		}
		switch string(v) {
		case "true", "1", "1.0":
			return TrainYes, nil
		case "false", "0", "0.0":
			return TrainNo, nil
		}
		return 0, r.Errorf("%s.%s is %.40s, expected true, false, 0 or 1: a turn is trained or it is not", where, key, v)
	}
	return TrainByMask, nil
}

// callFromText turns the text of a function_call turn, {"name": ..., "arguments": ...}, into a list of calls.
func (r *Row) callFromText(where string, m *Message) (json.RawMessage, error) {
	text := strings.TrimSpace(m.Content)
	if text == "" || !json.Valid([]byte(text)) || text[0] != '{' && text[0] != '[' {
		return nil, r.Errorf("%s is a function_call whose text is no JSON object or list of them", where)
	}
	m.Content = ""
	if text[0] == '[' {
		return json.RawMessage(text), nil
	}
	return json.RawMessage("[" + text + "]"), nil
}

// toolCalls puts calls into the form that templates expect, {"type": "function", "function": {"name", "arguments"}}, with arguments
// as an object: OpenAI has them as a string of JSON, and a template would escape it once more. nil for an empty list.
func (r *Row) toolCalls(where string, v json.RawMessage) (json.RawMessage, error) {
	v, err := r.unquoted(where, v, '[')
	if err != nil {
		return nil, err
	}
	var items []json.RawMessage
	if v[0] != '[' || json.Unmarshal(v, &items) != nil {
		return nil, r.Errorf("%s must be a list, is %s", where, kindOf(v))
	}
	if len(items) == 0 {
		return nil, nil
	}
	out := []byte{'['}
	for i, raw := range items {
		at := fmt.Sprintf("%s[%d]", where, i)
		call, err := object(raw)
		if err != nil {
			return nil, r.Errorf("%s %v", at, err)
		}
		if get(call, "function") == nil {
			call = []field{{"type", json.RawMessage(`"function"`)}, {"function", raw}}
		}
		fn, err := object(get(call, "function"))
		if err != nil {
			return nil, r.Errorf("%s.function %v", at, err)
		}
		if get(fn, "name") == nil {
			return nil, r.Errorf("%s has no name (it has %s)", at, keyList(keysOf(fn)))
		}
		if args := get(fn, "arguments"); args != nil {
			if args, err = r.unquoted(at, args, '{'); err != nil {
				return nil, err
			}
			fn = set(fn, "arguments", args)
		}
		raw, err := encode(fn)
		if err == nil {
			raw, err = encode(set(call, "function", raw))
		}
		if err != nil {
			return nil, r.Errorf("%s: %v", at, err)
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, raw...)
	}
	return append(out, ']'), nil
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	slices.Sort(keys)
	return keys
}

// around reads what a row says beside its messages: tools, and variables of the template.
func (r *Row) around() (c Conversation, err error) {
	if r.Has("tools") {
		v, err := r.unquoted("tools", r.Fields["tools"], '[')
		if err != nil {
			return c, err
		}
		switch {
		case blank(v):
		case v[0] != '[':
			return c, r.Errorf("\"tools\" must be a list, is %s", kindOf(v))
		case len(bytes.TrimSpace(v[1:len(v)-1])) > 0:
			c.Tools = v
		}
	}
	if r.Has("chat_template_kwargs") {
		v, err := r.unquoted("chat_template_kwargs", r.Fields["chat_template_kwargs"], '{')
		if err != nil {
			return c, err
		}
		if blank(v) {
			return c, nil
		}
		if err := json.Unmarshal(v, &c.Extra); err != nil {
			return c, r.Errorf("\"chat_template_kwargs\" must be an object: %v", err)
		}
	}
	return c, nil
}

// blank is an empty column of a table.
func blank(v json.RawMessage) bool { return v[0] == '"' && len(bytes.Trim(v, `" `)) == 0 }
