package tokenizer

import (
	"fmt"
	"math"
	"strings"
)

// GGUF returns the values that describe t in a GGUF file: SentencePiece's BPE, whose scores keep the order of the file's and are otherwise
// made up. FromGGUF of them gives the same ids.
func (t *Llama2C) GGUF() (GGUF, error) {
	yes, no := true, false
	unk, bos, eos := int32(0), int32(llama2cBOS), int32(llama2cEOS)
	g := GGUF{Model: "llama", BOS: &bos, EOS: &eos, Unk: &unk, AddBOS: &yes, AddEOS: &no, AddSpacePrefix: &yes}
	for id, token := range t.tokens {
		kind, score := int32(pieceNormal), -float32(t.ranks[id])
		switch {
		case id == 0:
			token, kind = "<unk>", pieceUnknown
		case id == llama2cBOS:
			token, kind = "<s>", pieceControl
		case id == llama2cEOS:
			token, kind = "</s>", pieceControl
		case id < llama2cBytes+256:
			token, kind = fmt.Sprintf("<0x%02X>", id-llama2cBytes), pieceByte
		case t.ranks[id] == math.MaxUint32:
			return g, unsupported("GGUF export of", fmt.Sprintf("token %d, which nothing is joined to", id), "tokens with scores above -1e10")
		default:
			token = strings.ReplaceAll(token, " ", "▁")
		}
		g.Tokens, g.Types, g.Scores = append(g.Tokens, token), append(g.Types, kind), append(g.Scores, score)
	}
	return g, nil
}
