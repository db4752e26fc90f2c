package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/upkeep-run/upkeep/dev/stack/probed"
)

const (
	// probeEvery is the pause between calls; a call that hangs holds up none of the next.
	probeEvery = 50 * time.Millisecond
	// probeWithin is how long an answer may take to be one.
	probeWithin = 2 * time.Second
)

// probe calls a URL again and again, each time by a connection of its own as new callers do, and writes what
// came of each call, until it is told to end.
func probe(ctx context.Context, url string) error {
	client := http.Client{Timeout: probeWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	var (
		calls sync.WaitGroup
		mu    sync.Mutex
	)
	defer calls.Wait()
	out := json.NewEncoder(os.Stdout)
	for tick := time.NewTicker(probeEvery); ; {
		calls.Go(func() {
			c := call(&client, url)
			mu.Lock()
			defer mu.Unlock()
			_ = out.Encode(c) // nobody is left to tell
		})
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func call(client *http.Client, url string) (c probed.Call) {
	c.Began = time.Now()
	defer func() { c.Ended = time.Now() }()
	response, err := client.Get(url)
	if err != nil {
		return c
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err == nil && response.StatusCode == http.StatusOK && json.Unmarshal(body, &c) == nil {
		c.Answered = true
	}
	return c
}
