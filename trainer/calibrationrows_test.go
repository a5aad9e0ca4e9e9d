package trainer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestRowsOfAnyRole: what a model is only run on may have the roles that a run listed in data.roles.
func TestRowsOfAnyRole(t *testing.T) {
	dir := chattyModel(t, map[string]string{"chat_template.jinja": `{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}`})
	m, err := trainer.OpenModel(dir, trainer.ModelOptions{})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(`{"messages":[{"role":"narrator","content":"a b"},{"role":"assistant","content":"c d"}]}`), 0o644))
	rows, err := m.TokenRows(t.Context(), path, 0, 0)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.NoError(t, m.Close())
}
