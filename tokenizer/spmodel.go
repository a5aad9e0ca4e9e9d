package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
)

// ParseSentencePiece reads the contents of a SentencePiece .model file of type BPE or unigram. Control pieces are found in the text as
// special tokens; normalization and user-defined pieces follow SentencePiece. The file does not say what is put around a text: a BPE
// model (Llama, Gemma) gets its BOS in front, as transformers does by default, a unigram model nothing; the tokenizer_config.json of a
// directory overrules that. raw is kept, not copied.
func ParseSentencePiece(raw []byte) (*HF, error) { return parseSentencePiece(raw, false) }

// parseSentencePiece also takes transformers' setting legacy: false, by which only the start of a text gets the prefix space.
func parseSentencePiece(raw []byte, prefixFirst bool) (*HF, error) {
	if len(raw) > maxFile {
		return nil, fmt.Errorf("tokenizer: the model file has %d bytes; the limit is %d", len(raw), maxFile)
	}
	m := spModel{unk: -1, dummyPrefix: true, trimSpaces: true, escape: true}
	names := spNames{kind: 1, bos: "<s>", eos: "</s>", pad: "<pad>"}
	err := fields(raw, func(f protoField) error {
		switch f.number {
		case 1:
			return m.addPiece(f)
		case 2:
			return names.read(f, &m)
		case 3:
			return m.readNormalizer(f)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tokenizer: SentencePiece model: %w", err)
	}
	if err := m.check(names); err != nil {
		return nil, err
	}
	m.prefixFirst = prefixFirst && m.dummyPrefix
	t, err := m.tokenizer()
	if err != nil {
		return nil, err
	}
	t.original = original{"tokenizer.model", raw}
	t.bos, t.eos, t.pad = m.control(names.bos), m.control(names.eos), m.control(names.pad)
	if t.bos >= 0 && !m.unigram {
		t.wrapping.prefix = []int32{t.bos}
	}
	return t, nil
}

// spNames is what a TrainerSpec says.
type spNames struct {
	kind          uint64 // 1 unigram, 2 BPE, 3 word, 4 character
	suffix        bool
	bos, eos, pad string
}

func (n *spNames) read(spec protoField, m *spModel) error {
	return fields(spec.bytes, func(f protoField) error {
		switch f.number {
		case 3:
			n.kind = f.value
		case 24:
			n.suffix = f.value != 0
		case 35:
			m.byteFallback = f.value != 0
		case 46:
			n.bos = string(f.bytes)
		case 47:
			n.eos = string(f.bytes)
		case 48:
			n.pad = string(f.bytes)
		}
		return nil
	})
}

func (m *spModel) addPiece(piece protoField) error {
	if len(m.pieces) >= maxVocab {
		return fmt.Errorf("more than %d pieces", maxVocab)
	}
	p := spPiece{kind: pieceNormal}
	err := fields(piece.bytes, func(f protoField) error {
		switch f.number {
		case 1:
			p.text = string(f.bytes)
		case 2:
			p.score = math.Float32frombits(uint32(f.value))
		case 3:
			p.kind = int32(min(f.value, math.MaxInt32))
		}
		return nil
	})
	m.pieces = append(m.pieces, p)
	return err
}

func (m *spModel) readNormalizer(spec protoField) error {
	return fields(spec.bytes, func(f protoField) error {
		switch f.number {
		case 2:
			m.charsmap = f.bytes
		case 3:
			m.dummyPrefix = f.value != 0
		case 4:
			m.trimSpaces = f.value != 0
		case 5:
			m.escape = f.value != 0
		}
		return nil
	})
}

func (m *spModel) check(names spNames) error {
	switch {
	case len(m.pieces) == 0:
		return fmt.Errorf("tokenizer: the SentencePiece model has no pieces; is the file a tokenizer.model?")
	case names.kind != 1 && names.kind != 2:
		return unsupported("SentencePiece model type", map[uint64]string{3: "word", 4: "char"}[names.kind], "unigram", "bpe")
	case names.suffix:
		return unsupported("SentencePiece", "treat_whitespace_as_suffix", "spaces in front of words")
	}
	m.unigram = names.kind == 1
	for id, p := range m.pieces {
		if p.kind != pieceUnknown {
			continue
		}
		if m.unk >= 0 {
			return fmt.Errorf("tokenizer: pieces %d and %d are both of type unknown; the file is damaged", m.unk, id)
		}
		m.unk = int32(id)
	}
	if m.unk < 0 {
		return fmt.Errorf("tokenizer: the SentencePiece model has no piece of type unknown; the file is damaged")
	}
	return nil
}

// control returns the id of a control piece, or -1.
func (m *spModel) control(text string) int32 {
	for id, p := range m.pieces {
		if p.kind == pieceControl && p.text == text {
			return int32(id)
		}
	}
	return -1
}

// protoField is one field of a protocol buffer: a number in value, or bytes.
type protoField struct {
	number uint64
	value  uint64
	bytes  []byte
}

// fields calls yield with each field of a message.
func fields(raw []byte, yield func(protoField) error) error {
	for at := 0; at < len(raw); {
		tag, n := binary.Uvarint(raw[at:])
		if n <= 0 {
			return fmt.Errorf("the tag at byte %d of a message of %d is damaged", at, len(raw))
		}
		f := protoField{number: tag >> 3}
		start := at
		at += n
		left := raw[at:]
		switch tag & 7 {
		case 0:
			f.value, n = binary.Uvarint(left)
		case 1:
			if n = min(8, len(left)); n == 8 {
				f.value = binary.LittleEndian.Uint64(left)
			} else {
				n = -1
			}
		case 2:
			size, k := binary.Uvarint(left)
			if k <= 0 || size > uint64(len(left)-k) {
				return fmt.Errorf("field %d at byte %d says it has %d bytes and %d are left; the file is cut short or no SentencePiece model", f.number, start, size, len(left))
			}
			f.bytes, n = left[k:k+int(size)], k+int(size)
		case 5:
			if n = min(4, len(left)); n == 4 {
				f.value = uint64(binary.LittleEndian.Uint32(left))
			} else {
				n = -1
			}
		default:
			return fmt.Errorf("field %d at byte %d has wire type %d; the file is damaged or no SentencePiece model", f.number, start, tag&7)
		}
		if n <= 0 {
			return fmt.Errorf("field %d at byte %d is cut short", f.number, start)
		}
		at += n
		if err := yield(f); err != nil {
			return err
		}
	}
	return nil
}
