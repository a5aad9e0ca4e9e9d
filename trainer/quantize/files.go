package quantize

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// setQuantization writes a config.json with another quantization_config, as transformers writes it: keys in the order of the alphabet,
// two spaces, ASCII. nil takes it out. Numbers keep their text.
func setQuantization(config []byte, q *checkpoint.Quantization) ([]byte, error) {
	var c map[string]any
	dec := json.NewDecoder(bytes.NewReader(config))
	dec.UseNumber()
	if err := dec.Decode(&c); err != nil || c == nil {
		return nil, errors.Join(errors.New("config.json is no JSON object"), err)
	}
	delete(c, "quantization_config")
	if q != nil {
		raw, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		c["quantization_config"] = json.RawMessage(raw)
	}
	return pythonJSON(c)
}

// pythonJSON is json.dumps(v, indent=2, sort_keys=True) with a final line break.
func pythonJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	out := make([]byte, 0, b.Len())
	for _, r := range b.String() {
		switch {
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out, nil
}

// modelDType is the dtype that config.json names; F32 where it names none.
func modelDType(config []byte) tensor.DType {
	var c struct {
		DType string `json:"dtype"`
		Old   string `json:"torch_dtype"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return tensor.F32
	}
	for _, name := range []string{c.DType, c.Old} {
		switch name {
		case "bfloat16":
			return tensor.BF16
		case "float16":
			return tensor.F16
		}
	}
	return tensor.F32
}

// copySmall copies the tokenizer, generation settings and whatever else belongs to the model.
func copySmall(in *input, fsys vfs.FS, dir string) error {
	entries, err := in.fsys.ReadDir(in.path)
	if err != nil {
		return inputError{err}
	}
	for _, e := range entries {
		if e.IsDir() || !copied(e.Name()) {
			continue
		}
		raw, err := vfs.ReadFile(in.fsys, filepath.ToSlash(filepath.Join(in.path, e.Name())), maxSmall)
		if err != nil {
			return inputError{err}
		}
		if err := vfs.WriteFile(fsys, filepath.Join(dir, e.Name()), raw); err != nil {
			return onDisk(err)
		}
	}
	return nil
}

// setDType changes the dtype that a config.json names, in the key that it has.
func setDType(config []byte, d tensor.DType) ([]byte, error) {
	var c map[string]any
	dec := json.NewDecoder(bytes.NewReader(config))
	dec.UseNumber()
	if err := dec.Decode(&c); err != nil {
		return nil, err
	}
	name := map[tensor.DType]string{tensor.F32: "float32", tensor.F16: "float16", tensor.BF16: "bfloat16"}[d]
	if _, old := c["torch_dtype"]; old {
		c["torch_dtype"] = name
	}
	if _, has := c["dtype"]; has || c["torch_dtype"] == nil {
		c["dtype"] = name
	}
	return pythonJSON(c)
}
