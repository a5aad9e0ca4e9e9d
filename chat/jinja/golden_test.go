package jinja

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// goldenCase is one template with its variables and what jinja2, or the JavaScript twin of it, prints.
type goldenCase struct {
	ChatTemplate string          `json:"chat_template"`
	Template     string          `json:"template"`
	Data         json.RawMessage `json:"data"`
	Context      json.RawMessage `json:"context"`
	Target       *string         `json:"target"`
	Expected     *string         `json:"expected"`
}

func readGolden(t *testing.T, v any, path ...string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{golden.Dir(t), "chat"}, path...)...))
	if err != nil {
		t.Skipf("no golden templates: %v", err)
	}
	require.NoError(t, json.Unmarshal(data, v))
}

func contextOf(t testing.TB, raw json.RawMessage) *Dict {
	t.Helper()
	if len(raw) == 0 {
		return NewDict()
	}
	v, err := FromJSON(raw)
	require.NoError(t, err)
	return v.(*Dict)
}

func TestGoldenChatTemplates(t *testing.T) {
	var file map[string]json.RawMessage
	readGolden(t, &file, "templates.json")
	var now time.Time
	require.NoError(t, json.Unmarshal(file["now"], &now))
	n := 0
	for section, raw := range file {
		var cases map[string]goldenCase
		if section == "now" {
			continue
		}
		require.NoError(t, json.Unmarshal(raw, &cases))
		for name, c := range cases {
			n++
			t.Run(section+"/"+name, func(t *testing.T) {
				tp, err := Parse(c.ChatTemplate, Options{Name: name, Now: func() time.Time { return now }})
				require.NoError(t, err)
				got, err := tp.Render(contextOf(t, c.Data))
				require.NoError(t, err)
				require.Equal(t, *c.Target, got.Text)
			})
		}
	}
	t.Logf("%d templates", n)
}

// dialect lists cases whose expectation is another language's, with the reason and what jinja2 does instead.
type dialect struct {
	Reason, Jinja2, Error string
}

func TestGoldenChatJinja(t *testing.T) {
	var cases map[string]goldenCase
	readGolden(t, &cases, "jinja_cases.json")
	var other map[string]dialect
	data, err := os.ReadFile("testdata/dialect.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &other))
	excepted := 0
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tp, err := Parse(c.Template, Options{Name: name})
			var got Result
			if err == nil {
				got, err = tp.Render(contextOf(t, c.Context))
			}
			d, listed := other[name]
			switch {
			case listed && d.Error != "":
				excepted++
				t.Log(d.Reason)
				require.ErrorContains(t, err, d.Error)
			case listed:
				excepted++
				t.Log(d.Reason)
				require.NoError(t, err)
				require.Equal(t, d.Jinja2, got.Text)
			case c.Expected == nil:
				require.Error(t, err)
			default:
				require.NoError(t, err)
				require.Equal(t, *c.Expected, got.Text)
			}
		})
	}
	t.Logf("%d cases, %d of them by jinja2's answer: see testdata/dialect.json", len(cases), excepted)
}
