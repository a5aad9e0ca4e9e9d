package data

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Example is one training example, at most the sequence length long.
type Example struct {
	IDs    []int32
	Labels []int32 // aligned with IDs, Ignore = untrained; the first is always Ignore
	Source string  // "file:line" where its row, or the piece of text that completed it, begins
}

// doc is the compact form of an example. Its ids lie in the token store from at on, followed by labels if it has its own; without
// them, ids[skip:] are trained.
type doc struct {
	at               int64
	n, skip, trained int32 // skip is ownLabels where labels follow
	file, line       int32
}

const ownLabels = -1

// store is what a set and its parts share; it never changes after Load.
type store struct {
	docs                                                    []doc
	tok                                                     *tokens
	files                                                   []FileInfo
	seqLen                                                  int
	pairs                                                   bool // docs come by two: chosen, rejected
	truncated, dropped, empty, untrained, duplicates, ended int
	bad, longest, torn, rendered                            int
	twins                                                   []string // places of the first duplicates
	differs                                                 []string // see Doc.Differs
}

const maxTwins = 5

// read copies the ids and labels of a document to slices of its length.
func (st *store) read(id int32, ids, labels []int32) error {
	d := &st.docs[id]
	if err := st.tok.read(d.at, ids[:d.n]); err != nil {
		return err
	}
	if d.skip == ownLabels {
		return st.tok.read(d.at+int64(d.n), labels[:d.n])
	}
	for t := range d.skip {
		labels[t] = Ignore
	}
	copy(labels[d.skip:d.n], ids[d.skip:d.n])
	return nil
}

func (st *store) example(id int32) (Example, error) {
	d := &st.docs[id]
	e := Example{IDs: make([]int32, d.n), Labels: make([]int32, d.n), Source: st.source(id)}
	return e, st.read(id, e.IDs, e.Labels)
}

func (st *store) source(id int32) string {
	d := &st.docs[id]
	return fmt.Sprintf("%s:%d", st.files[d.file].Path, d.line)
}

// Set is a list of examples, or of pairs of them (see [Set.Pairs]). Their tokens are in memory up to Limits.Memory, the rest in a file.
type Set struct {
	st       *store
	rows     []int32 // indices into st.docs, ascending; of a pair that of the chosen one
	weighted bool    // the weights of the files apply; held-out rows are seen once each
}

// Len is the number of examples, or of pairs.
func (s *Set) Len() int { return len(s.rows) }

// SeqLen is the length that examples were cut to.
func (s *Set) SeqLen() int { return s.st.seqLen }

// ID is the number of example i in the whole data, the same in a set and its parts. Batch.Sample holds it. Of pair i it is the
// number of the chosen example; the rejected one has the number that follows.
func (s *Set) ID(i int) int32 { return s.rows[i] }

// Documents is an upper bound of all numbers that ID and Batch.Sample have in the whole data, for tables by example.
func (s *Set) Documents() int { return len(s.st.docs) }

// Example returns example i, in [0, Len); of a set of pairs the chosen one. The error is a *SpillError.
func (s *Set) Example(i int) (Example, error) { return s.st.example(s.rows[i]) }

// Source returns "file:line" of example i.
func (s *Set) Source(i int) string { return s.st.source(s.rows[i]) }

// SourceOf returns "file:line" of the example that has the number id, as Batch.Sample gives it.
func (s *Set) SourceOf(id int32) string { return s.st.source(id) }

// Close removes the file of tokens that memory did not hold, if there is one. It closes all parts of a split set: call it once the
// last batch was built.
func (s *Set) Close() error { return s.st.tok.close() }

// Unweighted is the set with every row seen once an epoch, whatever the weight of its file.
func (s *Set) Unweighted() *Set { return &Set{st: s.st, rows: s.rows} }

// Files lists the input files in order, with their digests and how their formats were chosen.
func (s *Set) Files() []FileInfo { return slices.Clone(s.st.files) }

// Digest is the hexadecimal SHA-256 of the input as stored: of one file its own, of several that of their hexadecimal digests,
// each followed by a line end, in order. File names play no part.
func (s *Set) Digest() string {
	if len(s.st.files) == 1 {
		return s.st.files[0].SHA256
	}
	h := sha256.New()
	for _, f := range s.st.files {
		_, _ = h.Write([]byte(f.SHA256 + "\n")) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Split holds out val for validation: below 1 a share of the examples, else a count. Examples are chosen by a hash of
// (seed, ID), at least one for each side when val > 0 and there are two. The held-out set is nil when val is 0 or there is a
// single example.
func (s *Set) Split(val float64, seed uint64) (train, held *Set, err error) {
	n := s.Len()
	if !(val >= 0) || math.IsInf(val, 0) || val >= 1 && val != math.Trunc(val) {
		return nil, nil, fmt.Errorf("data: val %v: must be a share in [0, 1) or a whole number of rows", val)
	}
	if val >= 1 && val >= float64(n) {
		return nil, nil, fmt.Errorf("data: val %v: leaves none of %d rows to train on", val, n)
	}
	if val == 0 || n < 2 {
		return s, nil, nil
	}
	k := int(val)
	if val < 1 {
		k = min(max(int(math.Round(val*float64(n))), 1), n-1)
	}
	key := keyOf(seed, saltSplit, 0)
	order := slices.Clone(s.rows)
	slices.SortFunc(order, func(a, b int32) int {
		ha, hb := draw(key, uint64(a)), draw(key, uint64(b))
		switch {
		case ha < hb:
			return -1
		case ha > hb:
			return 1
		}
		return int(a) - int(b)
	})
	held = &Set{st: s.st, rows: order[:k:k]}
	train = &Set{st: s.st, rows: order[k:], weighted: s.weighted}
	slices.Sort(held.rows)
	slices.Sort(train.rows)
	return train, held, nil
}

// Report counts what is in a set. Figures of what was rendered, cut, left out or equal are those of the whole load.
type Report struct {
	Rows         int      `json:"rows"`            // rows read from the files, pieces of plain text counted one each
	Documents    int      `json:"documents"`       // examples in this set, two of a pair
	Pairs        int      `json:"pairs,omitempty"` // pairs in this set
	Tokens       int64    `json:"tokens"`
	Trained      int64    `json:"trained_tokens"`
	Share        float64  `json:"trained_share"`                    // Trained / Tokens
	Truncated    int      `json:"truncated"`                        // lost their end to the sequence length
	Dropped      int      `json:"dropped"`                          // lost all their trained tokens to it, and were left out
	Empty        int      `json:"empty"`                            // texts of white space or one token, and pairs of equal answers, left out
	Bad          int      `json:"bad"`                              // could not be used and were left out (Options.OnBadRow)
	ZeroLabel    int      `json:"zero_label"`                       // of these, had no token to train on
	Duplicates   int      `json:"duplicates"`                       // equal an earlier example in ids and labels; kept
	DuplicateAt  []string `json:"duplicate_at,omitempty"`           // the first of them, "file:line"
	Rendered     int      `json:"rendered"`                         // made by the chat template
	Ended        int      `json:"eos_added"`                        // conversations that got an EOS because the template ends the last turn with nothing
	Torn         int      `json:"torn_borders"`                     // conversations in which a token holds the end of a prompt and the front of an answer
	Differs      []string `json:"differs_from_inference,omitempty"` // of the first conversations, those whose prompt is another at inference
	MinLen       int      `json:"min_len"`
	MeanLen      float64  `json:"mean_len"`
	MaxLen       int      `json:"max_len"`
	Longest      int      `json:"longest"`                          // the longest row before it was cut; 0 for plain text, which is cut into windows
	Lengths      []Bin    `json:"lengths"`                          // how many examples have which length
	PackedRows   int      `json:"packed_rows,omitempty"`            // rows (pairs) in the first epoch (Loader.Report only)
	Efficiency   float64  `json:"packing_efficiency,omitempty"`     // share of positions that hold a token (Loader.Report only)
	TrainedSpace float64  `json:"trained_position_share,omitempty"` // share of positions that are trained (Loader.Report only)
	SeqLen       int      `json:"seq_len"`
	Spilled      int64    `json:"spilled_tokens,omitempty"` // kept in a file instead of in memory
	ShareByFile  []Part   `json:"files"`
}

// Bin counts the examples of more than the previous bin's length and at most UpTo tokens.
type Bin struct {
	UpTo  int `json:"up_to"`
	Count int `json:"count"`
}

// bins are powers of two up to the sequence length, and it.
func bins(seqLen int) []Bin {
	var out []Bin
	for n := minBucket; n < seqLen; n *= 2 {
		out = append(out, Bin{UpTo: n})
	}
	return append(out, Bin{UpTo: seqLen})
}

// Part is a file's share of the set.
type Part struct {
	Path      string `json:"path"`
	Documents int    `json:"documents"`
	Tokens    int64  `json:"tokens"`
}

// Report counts the set.
func (s *Set) Report() Report {
	st := s.st
	r := Report{Truncated: st.truncated, Dropped: st.dropped, Empty: st.empty, Bad: st.bad, ZeroLabel: st.untrained, Longest: st.longest,
		Lengths: bins(st.seqLen), DuplicateAt: st.twins, Duplicates: st.duplicates, Rendered: st.rendered, Ended: st.ended, Torn: st.torn, Differs: st.differs,
		SeqLen: st.seqLen, Spilled: st.tok.spilled(), ShareByFile: make([]Part, len(st.files))}
	if st.pairs {
		r.Pairs = s.Len()
	}
	for i, f := range st.files {
		r.Rows += f.Rows
		r.ShareByFile[i].Path = f.Path
	}
	for _, row := range s.rows {
		r.count(&st.docs[row])
		if st.pairs {
			r.count(&st.docs[row+1])
		}
	}
	if r.Documents > 0 {
		r.MeanLen = float64(r.Tokens) / float64(r.Documents)
		r.Share = float64(r.Trained) / float64(r.Tokens)
	}
	return r
}

// count adds a document to the figures of length.
func (r *Report) count(d *doc) {
	n := int(d.n)
	if r.Documents == 0 {
		r.MinLen = n
	}
	r.MinLen, r.MaxLen = min(r.MinLen, n), max(r.MaxLen, n)
	i := sort.Search(len(r.Lengths), func(i int) bool { return r.Lengths[i].UpTo >= n })
	r.Lengths[min(i, len(r.Lengths)-1)].Count++
	r.Documents++
	r.Tokens += int64(n)
	r.Trained += int64(d.trained)
	r.ShareByFile[d.file].Documents++
	r.ShareByFile[d.file].Tokens += int64(n)
}
