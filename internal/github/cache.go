package github

import (
	"bytes"
	"container/list"
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

// Cache keeps answers by their ETags: to be told that one is still right costs nothing of GitHub's limits.
// What is kept may be lost at any time. It is safe for use by several goroutines.
type Cache interface {
	Load(key string) (data []byte, ok bool)
	Store(key string, data []byte)
}

// memory is a cache of the answers that were used last.
type memory struct {
	mu    sync.Mutex
	most  int // bytes
	size  int
	order *list.List // the one used last in front
	items map[string]*list.Element
}

type kept struct {
	key  string
	data []byte
}

// NewMemory returns a cache of at most so many bytes.
func NewMemory(most int) Cache {
	return &memory{most: most, order: list.New(), items: make(map[string]*list.Element)}
}

func (m *memory) Load(key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.items[key]
	if e == nil {
		return nil, false
	}
	m.order.MoveToFront(e)
	return e.Value.(kept).data, true
}

func (m *memory) Store(key string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.items[key]; e != nil {
		m.drop(e)
	}
	m.items[key] = m.order.PushFront(kept{key, data})
	m.size += len(key) + len(data)
	for m.size > m.most {
		m.drop(m.order.Back())
	}
}

func (m *memory) drop(e *list.Element) {
	k := m.order.Remove(e).(kept)
	delete(m.items, k.key)
	m.size -= len(k.key) + len(k.data)
}

// remembered is an answer as it is kept.
type remembered struct {
	ETag string `json:"etag"`
	Link string `json:"link,omitempty"`
	Type string `json:"type,omitempty"`
	Body []byte `json:"body"`
}

// conditional is the transport that asks whether what it remembers is still so.
type conditional struct {
	cache Cache
	who   string // two identities may see different things
	next  http.RoundTripper
}

func (t conditional) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		return t.next.RoundTrip(r)
	}
	key := t.who + " " + r.Header.Get("Accept") + " " + r.URL.String()
	var old remembered
	if data, ok := t.cache.Load(key); ok && json.Unmarshal(data, &old) == nil && old.ETag != "" {
		r = r.Clone(r.Context())
		r.Header.Set("If-None-Match", old.ETag)
	}
	answer, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch tag := answer.Header.Get("ETag"); {
	case answer.StatusCode == http.StatusNotModified && old.ETag != "":
		_ = answer.Body.Close()
		answer.StatusCode, answer.Status = http.StatusOK, "200 OK"
		answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(old.Body)), int64(len(old.Body))
		answer.Header.Set("Content-Type", old.Type)
		answer.Header.Del("Link")
		if old.Link != "" {
			answer.Header.Set("Link", old.Link)
		}
	case answer.StatusCode == http.StatusOK && tag != "":
		body, err := io.ReadAll(answer.Body) // bounded below
		_ = answer.Body.Close()
		if err != nil {
			return nil, err
		}
		answer.Body = io.NopCloser(bytes.NewReader(body))
		if !json.Valid(body) {
			break // what is garbage is not remembered
		}
		if data, err := json.Marshal(remembered{ETag: tag, Link: answer.Header.Get("Link"), Type: answer.Header.Get("Content-Type"), Body: body}); err == nil {
			t.cache.Store(key, data)
		}
	}
	return answer, nil
}
