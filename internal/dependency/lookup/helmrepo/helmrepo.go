// Package helmrepo knows the versions of charts in Helm repositories, from their index.
//
// An index may have tens of megabytes, and a YAML parser makes twenty times as much of it. So it is read line
// by line, and only the lines of one chart at a time are parsed.
package helmrepo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/upkeep-run/upkeep/internal/dependency"
	"github.com/upkeep-run/upkeep/internal/dependency/httpcache"
	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	maxIndex    = 256 << 20 // bytes
	maxJSON     = 32 << 20  // of an index that is JSON, which is read as a whole
	maxChart    = 16 << 20  // of one chart's lines
	maxLine     = 1 << 20
	maxVersions = 200_000 // of all charts of a repository
)

// Source reads indexes.
type Source struct{ client *httpcache.Client }

// New returns the source.
func New(client *httpcache.Client) *Source { return &Source{client} }

// Name implements dependency.Datasource.
func (*Source) Name() string { return dependency.SourceHelm }

// Releases implements dependency.Datasource. They are complete.
func (s *Source) Releases(ctx context.Context, p dependency.Package) ([]dependency.Release, error) {
	if why := dependency.CheckPackage(p); why != "" {
		return nil, failure.New(failure.BadInput, "%s is not looked up: %s", dependency.Printable(p.Name), why)
	}
	data, err := s.client.Get(ctx, httpcache.Request{
		URL: strings.TrimSuffix(p.Registry, "/") + "/index.yaml", Form: "charts 1", Limit: maxIndex, Distil: distil,
	})
	if errors.Is(err, httpcache.ErrMissing) {
		return nil, failure.New(failure.UnknownPackage, "there is no chart repository at %s", p.Registry).Do("see that its URL is right")
	}
	if err != nil {
		return nil, err
	}
	var releases []dependency.Release
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 4)
		if len(f) != 4 || f[0] != p.Name {
			continue
		}
		at, _ := time.Parse(time.RFC3339, f[2])
		releases = append(releases, dependency.Release{Version: f[1], Time: at, Withdrawn: f[3]})
	}
	if len(releases) == 0 {
		return nil, failure.New(failure.UnknownPackage, "the repository at %s has no chart %q", p.Registry, p.Name).Do("see that the name is right")
	}
	return releases, nil
}

// Complete implements dependency.Datasource.
func (*Source) Complete(_ context.Context, _ dependency.Package, r dependency.Release) (dependency.Release, error) {
	return r, nil
}

// entry is the part of an entry that matters.
type entry struct {
	Version    string `yaml:"version" json:"version"`
	Created    string `yaml:"created" json:"created"`
	Deprecated bool   `yaml:"deprecated" json:"deprecated"`
}

// kept collects a line for each version: chart, version, time, why it is withdrawn; with tabs between.
type kept struct {
	bytes.Buffer
	versions int
}

func (k *kept) add(name string, charts []entry) error {
	for _, c := range charts {
		if k.versions++; k.versions > maxVersions {
			return fmt.Errorf("it has more than %d versions", maxVersions)
		}
		if strings.ContainsAny(name+c.Version, "\t\n\r") {
			continue
		}
		created, withdrawn := "", ""
		if t, err := time.Parse(time.RFC3339, c.Created); err == nil {
			created = t.UTC().Format(time.RFC3339)
		}
		if c.Deprecated {
			withdrawn = "deprecated"
		}
		_, _ = fmt.Fprintf(k, "%s\t%s\t%s\t%s\n", name, c.Version, created, withdrawn)
	}
	return nil
}

func distil(r io.Reader) ([]byte, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var k kept
	if first, err := in.Peek(1); err == nil && first[0] == '{' {
		return distilJSON(in, &k)
	}
	err := blocks(in, func(name string, block []byte) error {
		var charts []entry
		if err := yaml.Unmarshal(block, &charts); err != nil {
			return fmt.Errorf("the entries of %q are no YAML of charts", name)
		}
		return k.add(name, charts)
	})
	return k.Bytes(), err
}

func distilJSON(r io.Reader, k *kept) ([]byte, error) {
	var index struct {
		Entries map[string][]entry `json:"entries"`
	}
	data, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return nil, err //nolint:wrapcheck // the client says what it was
	}
	if len(data) > maxJSON || json.Unmarshal(data, &index) != nil || index.Entries == nil {
		return nil, errors.New("it is no index of charts")
	}
	for name, charts := range index.Entries {
		if err := k.add(name, charts); err != nil {
			return nil, err
		}
	}
	return k.Bytes(), nil
}

// blocks gives the lines of each chart: what is below "entries:", cut at the keys that are one step in. In
// YAML everything that belongs to a key is further in than the key, but for the dashes of its list.
func blocks(in *bufio.Reader, each func(name string, block []byte) error) error {
	inEntries, any, step, name := false, false, -1, ""
	var block bytes.Buffer
	flush := func() error {
		defer block.Reset()
		if name == "" {
			return nil
		}
		return each(name, block.Bytes())
	}
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		text := strings.TrimLeft(string(line), " ")
		indent := len(line) - len(text)
		switch bare := strings.TrimSpace(text); {
		case bare == "" || !inEntries && bare[0] == '#':
		case indent == 0:
			if err := flush(); err != nil {
				return err
			}
			name, step = "", -1
			inEntries = bare == "entries:" || bare == "entries: {}"
			any = any || inEntries
			continue
		case !inEntries:
			continue
		case step < 0 || indent == step && bare[0] != '-':
			if err := flush(); err != nil {
				return err
			}
			step = indent
			key, rest, found := strings.Cut(bare, ":")
			if name = strings.Trim(key, `"'`); !found || name == "" || strings.TrimSpace(rest) != "" && strings.TrimSpace(rest) != "[]" {
				return errors.New("it is no index of charts")
			}
			continue
		case indent < step:
			return errors.New("it is no index of charts")
		}
		if block.Len()+len(line) > maxChart {
			return fmt.Errorf("the entries of %q have more than %d MB", name, maxChart>>20)
		}
		block.Write(line)
	}
	if !any {
		return errors.New("it is no index of charts")
	}
	return flush()
}

// readLine reads a line with its end, of bounded length.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("it has a line of more than %d MB", maxLine>>20)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err //nolint:wrapcheck // io.EOF must stay what it is
		}
	}
}
