package githubtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// GitHub's own description of its API and of its webhooks. It has 13 MB; what is used of it is cut out once
// and kept by its content outside of the checkout.
const (
	specPackage = "@octokit/openapi@23.0.2"
	specFile    = "package/generated/api.github.com.json"
	specSHA256  = "829b4bebb19a53133289f7b0bc819f4f1118115821db2ca9f25e9ee995a7da2a"
	cutVersion  = "2" // of cut: another one makes another file
	webhookPath = "/x-webhooks/"
)

// loadSpec gives GitHub's description of these operations ("GET /repos/{owner}/{repo}") and webhooks
// ("pull-request-opened").
func loadSpec(ctx context.Context, operations, webhooks []string) (*openapi3.T, error) {
	slices.Sort(operations)
	slices.Sort(webhooks)
	sum := sha256.Sum256([]byte(strings.Join(slices.Concat([]string{specSHA256, cutVersion}, operations, webhooks), "\n")))
	cache, err := cacheFolder("github-openapi")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(cache, hex.EncodeToString(sum[:8])+".json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = whole(ctx, cache); err != nil {
			return nil, fmt.Errorf("GitHub's description of its API, which the tests need, is not to be had: %w", err)
		}
		if data, err = cut(data, operations, webhooks); err != nil {
			return nil, err
		}
		err = put(path, data)
	}
	if err != nil {
		return nil, err
	}
	return openapi3.NewLoader().LoadFromData(data)
}

// whole gives the whole description, from the cache or from npm.
func whole(ctx context.Context, cache string) ([]byte, error) {
	return fromNPM(ctx, cache, specPackage, specFile, specSHA256)
}

// fromNPM gives one file of an npm package, which is known by its hash and kept in the cache.
func fromNPM(ctx context.Context, cache, pkg, file, want string) ([]byte, error) {
	path := filepath.Join(cache, want+".json")
	if data, err := os.ReadFile(path); err == nil {
		return data, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tmp, err := os.MkdirTemp("", "upkeep-npm-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	pack := exec.CommandContext(ctx, "npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", tmp, pkg)
	pack.Dir = tmp
	out, err := pack.Output()
	if err != nil {
		return nil, fmt.Errorf("npm pack %s: %w: %.500s", pkg, err, out)
	}
	archive := filepath.Join(tmp, strings.TrimSpace(string(out)))
	data, err := exec.CommandContext(ctx, "tar", "-xzOf", archive, file).Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s of %s: %w", file, pkg, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("%s of %s is not what it was: its SHA-256 is %x", file, pkg, sum)
	}
	return data, put(path, data)
}

// cut keeps the operations and webhooks, and what they refer to.
func cut(data []byte, operations, webhooks []string) ([]byte, error) {
	var all struct {
		OpenAPI    string                                `json:"openapi"`
		Info       json.RawMessage                       `json:"info"`
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components map[string]map[string]json.RawMessage `json:"components"`
		Webhooks   map[string]map[string]json.RawMessage `json:"x-webhooks"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("GitHub's description: %w", err)
	}
	paths := make(map[string]map[string]any)
	components := make(map[string]map[string]any)
	var keep func(raw json.RawMessage) (any, error)
	keep = func(raw json.RawMessage) (any, error) {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, err
		}
		v = lean(v)
		for _, ref := range references(v, nil) {
			kind, name, ok := strings.Cut(strings.TrimPrefix(ref, "#/components/"), "/")
			if !ok || components[kind][name] != nil {
				continue
			}
			if components[kind] == nil {
				components[kind] = make(map[string]any)
			}
			components[kind][name] = true // so that a schema that refers to itself ends
			kept, err := keep(all.Components[kind][name])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ref, err)
			}
			components[kind][name] = kept
		}
		return v, nil
	}
	add := func(path, method string, raw json.RawMessage) error {
		if raw == nil {
			return fmt.Errorf("GitHub describes no %s %s", method, path)
		}
		kept, err := keep(raw)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		if paths[path] == nil {
			paths[path] = make(map[string]any)
		}
		paths[path][method] = kept
		return nil
	}
	for _, o := range operations {
		method, path, _ := strings.Cut(o, " ")
		method = strings.ToLower(method)
		if err := add(path, method, all.Paths[path][method]); err != nil {
			return nil, err
		}
	}
	for _, w := range webhooks {
		if err := add(webhookPath+w, "post", all.Webhooks[w]["post"]); err != nil {
			return nil, err
		}
	}
	return json.Marshal(map[string]any{"openapi": all.OpenAPI, "info": all.Info, "paths": paths, "components": components})
}

// lean leaves out what is for readers alone.
func lean(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			_, isText := item.(string)
			switch {
			case k == "x-github", k == "examples", k == "example" && !isSchema(item), k == "externalDocs":
				delete(v, k)
			case k == "description" && isText:
				v[k] = "-" // a response must have one
			default:
				v[k] = lean(item)
			}
		}
	case []any:
		for i := range v {
			v[i] = lean(v[i])
		}
	}
	return v
}

// isSchema says whether it is the property of that name, and not an example.
func isSchema(v any) bool {
	m, _ := v.(map[string]any)
	return m["type"] != nil || m["$ref"] != nil
}

func references(v any, found []string) []string {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			if ref, ok := item.(string); ok && k == "$ref" {
				found = append(found, ref)
				continue
			}
			found = references(item, found)
		}
	case []any:
		for _, item := range v {
			found = references(item, found)
		}
	}
	return found
}

func cacheFolder(name string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "upkeep", name)
	return dir, os.MkdirAll(dir, 0o755)
}

// put writes a file at once: another test binary may write the same.
func put(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
