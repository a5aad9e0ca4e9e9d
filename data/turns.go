package data

// Conversation reads the row as a conversation: messages, or ShareGPT's conversations, with its tools and the variables of its template.
func (r *Row) Conversation() (c Conversation, err error) {
	switch {
	case r.Has("messages"):
		if c, err = r.around(); err == nil {
			c.Messages, err = r.messages("messages")
		}
		return c, err
	case r.Has("conversations"):
		return r.shareGPT()
	}
	return c, r.Errorf("is no conversation: it has neither \"messages\" nor \"conversations\"")
}
