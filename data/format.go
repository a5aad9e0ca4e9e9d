package data

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// Format is a row of the table of formats: how the rows of a file are recognised and turned into token ids. A format is added by
// a file with its Convert and a line in formats, or from outside by Options.Formats.
type Format struct {
	Name string
	Keys []string // a row must have them all for "auto" to choose the format
	Uses []string // further keys that Convert reads; others are reported as ignored
	// Convert returns the row's documents at full length; Load cuts them. It is called from several goroutines.
	Convert func(r *Row, c *Converter) ([]Doc, error)
}

// Converter is what a Format may use.
type Converter struct {
	Encoder  Encoder
	Mask     Mask
	BOS, EOS []int32
	Renderer Renderer // nil: conversations are refused
	AsChat   bool     // prompts and answers that are plain text are rendered as conversations too
	Roles    []string // of turns, beside the usual ones: see UnknownRole
	AnyRole  bool     // turns may have any role
}

// Doc is a tokenised document before it is cut to the sequence length.
type Doc struct {
	IDs     []int32
	Labels  []int32 // aligned with IDs; nil = every id from Skip on is trained
	Skip    int
	Chat    bool   // rendered by the chat template
	Ended   bool   // an EOS was added because the chat template ends the last turn with nothing
	Differs string // how the text before the last answer differs from what a model is given at inference; looked at in the first rows of a file
	Torn    bool   // a token at the front of a trained turn holds text of the prompt too
	Window  bool   // cut into windows when too long, instead of losing its end; all is trained, Labels and Skip are not used
	More    bool   // the next Doc goes on with this document (Window only)
}

// formats is ordered: auto takes the first whose keys are all there.
var formats = [...]Format{
	{Name: "tokens", Keys: []string{"input_ids"}, Uses: []string{"labels"}, Convert: convertTokens},
	{Name: "messages", Keys: []string{"messages"}, Uses: []string{"tools", "chat_template_kwargs"}, Convert: convertMessages},
	{Name: "sharegpt", Keys: []string{"conversations"}, Uses: []string{"system", "tools", "chat_template_kwargs"}, Convert: convertShareGPT},
	{Name: "prompt_completion", Keys: []string{"prompt", "completion"}, Uses: []string{"tools", "chat_template_kwargs"}, Convert: convertPromptCompletion},
	{Name: "alpaca", Keys: []string{"instruction", "output"}, Uses: []string{"input", "system"}, Convert: convertAlpaca},
	{Name: "text", Keys: []string{"text"}, Convert: convertText},
}

// FormatNames lists the built-in formats, in the order in which auto tries them, those of preferences last.
func FormatNames() []string { return append(names(formats[:]), names(pairFormats[:])...) }

func names(list []Format) []string {
	out := make([]string, len(list))
	for i, f := range list {
		out[i] = f.Name
	}
	return out
}

func (o Options) table() []Format {
	if o.Pairs {
		return append(append([]Format(nil), o.Formats...), pairFormats[:]...)
	}
	return append(append([]Format(nil), o.Formats...), formats[:]...)
}

// byName finds an explicit format; nil without error means auto.
func (o Options) byName() (*Format, error) {
	if o.Format == "auto" {
		return nil, nil
	}
	list := o.table()
	for i := range list {
		if list[i].Name == o.Format {
			return &list[i], nil
		}
	}
	other := o
	if other.Pairs = !o.Pairs; slices.Contains(names(other.table()), o.Format) {
		if o.Pairs {
			return nil, fmt.Errorf("data: format %q has no pairs of answers, which a preference objective trains on; use rows with chosen and rejected", o.Format)
		}
		return nil, fmt.Errorf("data: format %q has pairs of answers, which only a preference objective trains on; set train.objective to dpo, or another format", o.Format)
	}
	return nil, fmt.Errorf("data: unknown format %q; known: auto, %s", o.Format, strings.Join(names(list), ", "))
}

// detect chooses the format of a file by its first row, and says why.
func (o Options) detect(r *Row) (*Format, string, error) {
	list := o.table()
	for i := range list {
		f := &list[i]
		all := len(f.Keys) > 0
		for _, k := range f.Keys {
			all = all && r.Has(k)
		}
		if !all {
			continue
		}
		why := fmt.Sprintf("the row at line %d has %s", r.Line, keyList(f.Keys))
		if rest := ignored(r, f); len(rest) > 0 {
			why += "; ignored: " + keyList(rest)
		}
		return f, why, nil
	}
	var known []string
	for _, f := range list {
		known = append(known, fmt.Sprintf("%s (%s)", f.Name, strings.Join(f.Keys, ", ")))
	}
	hint := ""
	switch {
	case !o.Pairs && r.Has("chosen") && r.Has("rejected"):
		hint = "; rows with chosen and rejected are preferences: set train.objective to dpo"
	case o.Pairs:
		hint = "; this objective trains on pairs of answers"
	default:
		hint = r.meant()
	}
	return nil, "", r.Errorf("no format fits the keys %s; known: %s%s", keyList(r.Keys()), strings.Join(known, "; "), hint)
}

// Names that rows of other data sets have for a prompt and for its answer.
var (
	promptNames = []string{"question", "instruction", "query", "input", "problem", "user"}
	answerNames = []string{"answer", "response", "output", "solution", "target", "assistant"}
)

// meant tells what a row that has the keys of no format may be meant for; "" where nobody knows.
func (r *Row) meant() string {
	first := func(names []string) string {
		i := slices.IndexFunc(names, r.Has)
		if i < 0 {
			return ""
		}
		return names[i]
	}
	if q, a := first(promptNames), first(answerNames); q != "" && a != "" {
		return fmt.Sprintf("; name %q prompt and %q completion", q, a)
	}
	for _, key := range r.Keys() {
		if v := r.Fields[key]; len(r.Fields) <= 3 && v[0] == '[' && v[skipSpace(v, 1)] == '{' {
			return fmt.Sprintf("; the rows may be the list at %q: write that list alone, or its objects one a line", key)
		}
	}
	return ""
}

func ignored(r *Row, f *Format) []string {
	used := map[string]bool{}
	for _, k := range append(append([]string(nil), f.Keys...), f.Uses...) {
		used[k] = true
	}
	var rest []string
	for _, k := range r.Keys() {
		if !used[k] {
			rest = append(rest, k)
		}
	}
	return rest
}

// rowsOf chooses how a file is cut into rows: by its name, else by its first character. plain says that it is plain text.
func rowsOf(path string, in io.Reader, o Options) (rows rowReader, plain bool, err error) {
	br := bufio.NewReaderSize(in, 1<<16)
	if head, _ := br.Peek(3); bytes.Equal(head, []byte("\xef\xbb\xbf")) {
		_, _ = br.Discard(3) // the bytes were just peeked
	}
	first, err := firstChar(br)
	if err != nil {
		return nil, false, readErr(path, 0, err)
	}
	switch filepath.Ext(unpackedName(path)) {
	case ".csv":
		return newCSVReader(path, br, ',', o.Limits.RowBytes), false, nil
	case ".tsv":
		return newCSVReader(path, br, '\t', o.Limits.RowBytes), false, nil
	case ".json", ".jsonl", ".ndjson":
	case ".txt", ".text", ".md":
		plain = o.Format == "auto" && !o.Pairs || o.Format == "text"
	default:
		plain = o.Format == "text" || o.Format == "auto" && !o.Pairs && first != '{' && first != '['
	}
	switch {
	case plain:
		return &textReader{file: path, line: 1, in: br, sep: []byte(o.Separator), max: o.Limits.RowBytes, unit: textPiece}, true, nil
	case first == '[':
		return &arrayReader{file: path, line: 1, in: br, max: o.Limits.RowBytes}, false, nil
	}
	return &lineReader{file: path, in: br, max: o.Limits.RowBytes}, false, nil
}

// firstChar peeks at the first character that is not white space, 0 if the first buffer has none.
func firstChar(br *bufio.Reader) (byte, error) {
	head, err := br.Peek(br.Size())
	if err != nil && err != io.EOF {
		return 0, err
	}
	if i := bytes.IndexFunc(head, func(c rune) bool { return !unicode.IsSpace(c) }); i >= 0 {
		return head[i], nil
	}
	return 0, nil
}
