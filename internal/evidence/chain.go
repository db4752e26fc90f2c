package evidence

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// chain checks a log entry by entry.
type chain struct {
	caseID string // empty: the first entry's
	seq    int
	prev   string
}

// read checks a segment, and says what is wrong with it, or "".
func (c *chain) read(data []byte) (entries []Entry, problem string) {
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return nil, "the end"
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(make([]byte, 0, 4096), maxSegment)
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			return entries, fmt.Sprintf("entry %d cannot be read", c.seq+1)
		}
		if problem := c.next(e, lines.Bytes()); problem != "" {
			return entries, problem
		}
		entries = append(entries, e)
	}
	if lines.Err() != nil {
		return entries, fmt.Sprintf("entry %d is too long", c.seq+1)
	}
	return entries, ""
}

func (c *chain) next(e Entry, line []byte) string {
	again, _ := json.Marshal(e) // plain data always encodes
	if c.caseID == "" {
		c.caseID = e.Case
	}
	switch {
	case !bytes.Equal(again, line):
		return fmt.Sprintf("entry %d is not as it was written", c.seq+1)
	case e.Seq != c.seq+1:
		return fmt.Sprintf("after entry %d comes one with the number %d", c.seq, e.Seq)
	case e.Prev != c.prev:
		return fmt.Sprintf("entry %d does not follow the one before", e.Seq)
	case e.Case != c.caseID:
		return fmt.Sprintf("entry %d is of another case", e.Seq)
	case e.Hash != e.hash():
		return fmt.Sprintf("entry %d was altered", e.Seq)
	case !signed(e):
		return fmt.Sprintf("entry %d has no valid signature", e.Seq)
	}
	c.seq, c.prev = e.Seq, e.Hash
	return ""
}

func signed(e Entry) bool {
	key, err := hex.DecodeString(e.Key)
	signature, failed := hex.DecodeString(e.Signature)
	return err == nil && failed == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, []byte(e.Hash), signature)
}
