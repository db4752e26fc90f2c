package rowhash

import (
	"bytes"
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

// The hash is part of the format: a backup of long ago must still be proven by it.
func TestHashIsFixed(t *testing.T) {
	require.Equal(t, "00000000000000000000000000000000", hashOf().Hex())
	require.Equal(t, "99aa06d3014798d86001c324468d497f", hashOf("").Hex(), "XXH3 128 of nothing, as its authors publish it")
	var c Counter
	_, _ = c.Write([]byte("1\tone\n2\t\\N\n"))
	require.Equal(t, hashOf("1\tone", "2\t\\N").Hex(), c.Sum().Hex())
	require.Equal(t, "66d46ba54ddb3079d301b40820c9b93f", c.Sum().Hex())
}

func TestCounterKeepsNoText(t *testing.T) {
	row := []byte("42\tsome text that is as long as rows are\n")
	long := bytes.Repeat([]byte("x"), 64<<10)
	var c Counter
	_, _ = c.Write(long)
	_, _ = c.Write([]byte("\n"))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = c.Write(row)
		for range 16 { // a row of 1 MiB in pieces
			_, _ = c.Write(long)
		}
		_, _ = c.Write(row)
	}))
	require.NoError(t, c.Close())
}

func BenchmarkCounter(b *testing.B) {
	text := bytes.Repeat([]byte(strings.Repeat("x", 200)+"\n"), 5000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var c Counter
		_, _ = c.Write(text)
	}
}

// FuzzParse: what is read is what would be written.
func FuzzParse(f *testing.F) {
	f.Add("66d46ba54ddb3079d301b40820c9b93f")
	f.Add("66D46BA54DDB3079D301B40820C9B93F")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		sum, err := Parse(text)
		if err == nil && sum.Hex() != strings.ToLower(text) {
			t.Fatalf("%q was read as %s", text, sum.Hex())
		}
	})
}

// FuzzCounter: however the text comes, its rows are those between its newlines.
func FuzzCounter(f *testing.F) {
	f.Add([]byte("1\tone\n2\t\\N\n"), 3)
	f.Add([]byte("\n\nhalf"), 1)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		var c Counter
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+int(uint(size)%64))
			_, _ = c.Write(rest[:n])
			rest = rest[n:]
		}
		rows := bytes.Split(text, []byte("\n"))
		var want Sum
		for _, row := range rows[:len(rows)-1] {
			want.Add(row)
		}
		open := len(rows[len(rows)-1]) > 0
		if c.Sum() != want || c.Rows() != int64(len(rows)-1) || (c.Close() != nil) != open {
			t.Fatalf("%d rows, %v", c.Rows(), c.Close())
		}
	})
}
