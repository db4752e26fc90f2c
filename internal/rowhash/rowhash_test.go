package rowhash

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func hashOf(rows ...string) Sum {
	var s Sum
	for _, r := range rows {
		s.Add([]byte(r))
	}
	return s
}

func TestSumKnowsNoOrderButCounts(t *testing.T) {
	require.Equal(t, hashOf("a", "b", "c"), hashOf("c", "a", "b"))
	require.NotEqual(t, hashOf("a", "b"), hashOf("a", "b", "b"))
	require.NotEqual(t, hashOf("a", "\\N"), hashOf("a", ""))
	require.NotEqual(t, hashOf(), hashOf(""), "a row without columns is a row")
	require.Equal(t, hashOf("a", "b", "c"), hashOf("a").Merge(hashOf("b", "c")))
}

func TestHexIsReadBack(t *testing.T) {
	s := hashOf("some", "rows")
	back, err := Parse(s.Hex())
	require.NoError(t, err)
	require.Equal(t, s, back)
	for _, bad := range []string{"", "00", strings.Repeat("g", 32), s.Hex() + "00"} {
		_, err := Parse(bad)
		require.Error(t, err, bad)
	}
}

func TestCounterTakesAnyPieces(t *testing.T) {
	rows := []string{"one\t1", "", "three\t\\N", strings.Repeat("x", 1000), "last"}
	text := strings.Join(rows, "\n") + "\n"
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var c Counter
		for rest := text; rest != ""; {
			n := 1 + random.IntN(len(rest))
			_, err := c.Write([]byte(rest[:n]))
			require.NoError(t, err)
			rest = rest[n:]
		}
		require.NoError(t, c.Close())
		require.EqualValues(t, len(rows), c.Rows())
		require.Equal(t, hashOf(rows...), c.Sum())
	}
	var c Counter
	_, err := c.Write([]byte("half a row"))
	require.NoError(t, err)
	require.ErrorIs(t, c.Close(), ErrHalfRow)
}
