package failure

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheTableOfErrorsIsTheCatalogue(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## Errors\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n#")
	documented := make(map[Code]Class)
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z]\w*) \|[^|]*\| ([^|]*) \|$`).FindAllStringSubmatch(section, -1) {
		for _, code := range strings.Split(row[2], ", ") {
			require.NotContains(t, documented, Code(code), "it is there twice")
			documented[Code(code)] = Class(row[1])
		}
	}
	require.Equal(t, catalogue, documented)
}
