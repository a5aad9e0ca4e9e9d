package chat

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzLoadFiles: what a folder says of its template is taken or refused, for any variant.
func FuzzLoadFiles(f *testing.F) {
	f.Add([]byte(`{"chat_template": "{{ messages }}", "eos_token": {"content": "</s>"}}`), []byte(nil), "")
	f.Add([]byte(`{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}`), []byte(nil), "tool_use")
	f.Add([]byte(`{"chat_template": [null, 3], "bos_token": null}`), []byte(`{"chat_template": {}}`), "x")
	f.Add([]byte(`[]`), []byte(`{{ "a" }}`), "../../x")
	f.Fuzz(func(t *testing.T, config, alone []byte, variant string) {
		files := map[string][]byte{"tokenizer_config.json": config}
		if len(alone) > 0 {
			files["chat_template.json"] = alone
		}
		tp, err := LoadFiles("model", files, variant, Options{})
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NotEmpty(t, tp.Name())
		require.Equal(t, 64, len(tp.Digest()))
	})
}
