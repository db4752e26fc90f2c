package yamlfile

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzText holds every place that is given to the bytes that stand there.
func FuzzText(f *testing.F) {
	for _, s := range []string{"a: b", "\ufeffa: 'é' # x\r\nb: \"c\"\n---\n- &x d\n- *x\n", "é: {ü: ö, \u2028: 1}\n", "a: |\n  b\n", "a:\r  b\r\n", "? a\n: !!str b\n", "a: \"\\u0041\"", "a: 'it''s'", "\u0085a: b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := Parse(content)
		if err != nil {
			return
		}
		for _, doc := range file.Documents {
			for key, value := range Each(doc) {
				text, span, ok := file.Text(value)
				if !ok {
					continue
				}
				require.Equal(t, text, string(content[span.Start:span.End]))
				require.Equal(t, Value(value), text)
				// Another text in its place is read there, and nothing else is another.
				edited := string(content[:span.Start]) + "zz9" + string(content[span.End:])
				again, err := Parse([]byte(edited))
				if text == "" || err != nil {
					continue // an empty one may stand before what would then be one word with it
				}
				require.Len(t, again.Documents, len(file.Documents))
				require.NotNil(t, Get(doc, key))
			}
		}
	})
}

func TestText(t *testing.T) {
	content := "\ufeffé: {ü: ö}\r\nb: \"c\"\n"
	file, err := Parse([]byte(content))
	require.NoError(t, err)
	for _, path := range [][]string{{"é", "ü"}, {"b"}} {
		text, span, ok := file.Text(Get(file.Documents[0], path...))
		require.True(t, ok)
		require.Equal(t, text, content[span.Start:span.End])
	}
	for _, unusual := range []string{"a: |\n  b\n", "a: !!str b\n", `a: "\u0041"`, "a: 'it''s'", "a: b\n  c\n", "a: {}", "a: [1]"} {
		file, err := Parse([]byte(unusual))
		require.NoError(t, err)
		_, _, ok := file.Text(Get(file.Documents[0], "a"))
		require.False(t, ok, unusual)
	}
	_, err = Parse([]byte("\xff\xfea\x00:\x00"))
	require.ErrorContains(t, err, "UTF-8")
}
