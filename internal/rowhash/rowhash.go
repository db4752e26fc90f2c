// Package rowhash hashes a set of rows without regard to their order: the sum, modulo 2^128, of a
// 128-bit hash (xxh3) of each row's COPY text. Sums of parts add up to the sum of the whole, and a
// row that is there twice counts twice. It finds faults, not forgers: who can write the backup can
// also write its hashes.
package rowhash

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// Sum is the hash of a set of rows. The zero value is the hash of no rows.
type Sum struct{ hi, lo uint64 }

// Of is the hash of one row: its COPY text without the newline.
func Of(row []byte) Sum {
	h := xxh3.Hash128(row)
	return Sum{h.Hi, h.Lo}
}

// Add adds a row: its COPY text without the newline.
func (s *Sum) Add(row []byte) { *s = s.Merge(Of(row)) }

// Low is the lower half: of one row's hash, 64 bits that depend on nothing but its text.
func (s Sum) Low() uint64 { return s.lo }

// Merge is the hash of both sets together.
func (s Sum) Merge(other Sum) Sum {
	lo, carry := bits.Add64(s.lo, other.lo, 0)
	hi, _ := bits.Add64(s.hi, other.hi, carry)
	return Sum{hi, lo}
}

// Hex writes the sum as 32 hex digits.
func (s Sum) Hex() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], s.hi)
	binary.BigEndian.PutUint64(b[8:], s.lo)
	return hex.EncodeToString(b[:])
}

// Parse reads what Hex wrote.
func Parse(text string) (Sum, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 {
		return Sum{}, fmt.Errorf("row hash %.40q is not 32 hex digits", text)
	}
	return Sum{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, nil
}

// ErrHalfRow says that a text ended inside a row.
var ErrHalfRow = errors.New("the text ends inside a row")

// Counter is a writer that counts and hashes the rows of COPY text, in whatever pieces it comes. It
// keeps no text, so a row of any size costs it nothing.
type Counter struct {
	rows int64
	sum  Sum
	half *xxh3.Hasher // what has come of a row that came in pieces; nil until there is one
	open bool         // a row's beginning has come, and its end has not
}

// Write takes the next piece of the text. It never fails.
func (c *Counter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		switch {
		case end < 0:
			c.begin(p)
			return n, nil
		case c.open:
			c.end(p[:end])
		default:
			c.sum.Add(p[:end])
		}
		c.rows++
		p = p[end+1:]
	}
	return n, nil
}

func (c *Counter) begin(piece []byte) {
	if c.half == nil {
		c.half = xxh3.New()
	}
	_, _ = c.half.Write(piece) // a hash never fails
	c.open = true
}

func (c *Counter) end(piece []byte) {
	_, _ = c.half.Write(piece) // a hash never fails
	h := c.half.Sum128()
	c.sum = c.sum.Merge(Sum{h.Hi, h.Lo})
	c.half.Reset()
	c.open = false
}

// Close says whether the text ended with a row.
func (c *Counter) Close() error {
	if c.open {
		return ErrHalfRow
	}
	return nil
}

// Rows is the number of whole rows so far.
func (c *Counter) Rows() int64 { return c.rows }

// Sum is the hash of the whole rows so far.
func (c *Counter) Sum() Sum { return c.sum }
