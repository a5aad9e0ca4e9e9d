package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// refCase is a text, its ids and, for a tokenizer.json, what they decode to, as another library has them.
type refCase struct {
	text, decoded string
	ids           []int32
}

// UnmarshalJSON reads [text, ids, decoded].
func (c *refCase) UnmarshalJSON(raw []byte) error {
	return json.Unmarshal(raw, &[]any{&c.text, &c.ids, &c.decoded})
}

// reference holds small tokenizers, one for each component of tokenizer.json and each kind of SentencePiece model, with cases.
type reference struct {
	Tokenizers    []refTokenizer
	SentencePiece []refTokenizer
	charsmap      string
}

type refTokenizer struct {
	Name  string
	File  json.RawMessage
	Cases []refCase
}

func readReference(t testing.TB) reference {
	var r reference
	require.NoError(t, json.Unmarshal(readGzip(t, filepath.Join("testdata", "reference.json.gz")), &r))
	for _, m := range r.SentencePiece {
		var spm spModel
		raw := m.model(t)
		require.NoError(t, fields(raw, func(f protoField) error {
			if f.number == 3 {
				return spm.readNormalizer(f)
			}
			return nil
		}))
		if len(spm.charsmap) > 0 {
			r.charsmap = base64.StdEncoding.EncodeToString(spm.charsmap)
		}
	}
	require.NotEmpty(t, r.charsmap)
	return r
}

// model returns the bytes of a SentencePiece file.
func (m refTokenizer) model(t testing.TB) []byte {
	var raw []byte
	require.NoError(t, json.Unmarshal(m.File, &raw))
	return raw
}

func TestReferenceComponents(t *testing.T) {
	r := readReference(t)
	for _, c := range r.Tokenizers {
		t.Run(c.Name, func(t *testing.T) {
			file := strings.Replace(string(c.File), `"precompiled_charsmap":"@"`, `"precompiled_charsmap":"`+r.charsmap+`"`, 1)
			tok, err := ParseHF([]byte(file))
			require.NoError(t, err)
			for _, x := range c.Cases {
				ids, err := tok.Encode(x.text)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(x.ids), fmt.Sprint(ids), "%+q", x.text)
				require.Equal(t, x.decoded, tok.Decode(ids), "%+q", x.text)
				require.Equal(t, x.decoded, streamAll(tok, ids, DecodeOptions{}), "streaming %+q", x.text)
			}
		})
	}
}

func TestReferenceSentencePiece(t *testing.T) {
	for _, c := range readReference(t).SentencePiece {
		t.Run(c.Name, func(t *testing.T) {
			tok, err := ParseSentencePiece(c.model(t))
			require.NoError(t, err)
			for _, x := range c.Cases {
				ids, err := tok.EncodeWith(x.text, EncodeOptions{NoSpecial: true, SpecialAsText: true})
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(x.ids), fmt.Sprint(ids), "%+q", x.text)
			}
		})
	}
}

// TestSavedSentencePiece holds the tokenizer.json that is written of a SentencePiece model to the ids of the model itself. Texts with
// user-defined pieces are left out: transformers finds those before normalization, and SentencePiece after it.
func TestSavedSentencePiece(t *testing.T) {
	for _, c := range readReference(t).SentencePiece {
		t.Run(c.Name, func(t *testing.T) {
			a, err := ParseSentencePiece(c.model(t))
			require.NoError(t, err)
			var b strings.Builder
			require.NoError(t, a.Save(&b))
			saved, err := ParseHF([]byte(b.String()))
			require.NoError(t, err)
			for _, text := range []string{"", "the king", "  two  spaces ", "O, speak\nagain!", "é中 don't"} {
				want, err := a.Encode(text)
				require.NoError(t, err)
				got, err := saved.Encode(text)
				require.NoError(t, err)
				require.Equal(t, want, got, "%q", text)
				require.Equal(t, a.Decode(want), saved.Decode(want), "%q", text)
			}
		})
	}
}
