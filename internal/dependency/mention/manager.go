package mention

import (
	"context"
	"io/fs"

	"github.com/upkeep-run/upkeep/internal/dependency"
)

// Manager is a dependency.Manager of files that say all by themselves: what Find gives of one is what can be
// edited in it.
type Manager struct {
	name   string
	claims func(file string) bool
	find   Find
}

// NewManager returns the manager of the files that it claims, by their paths.
func NewManager(name string, claims func(file string) bool, find Find) *Manager {
	return &Manager{name, claims, find}
}

// Name implements dependency.Manager.
func (m *Manager) Name() string { return m.name }

// Claims implements dependency.Manager.
func (m *Manager) Claims(file string) bool { return m.claims(file) }

// Extract implements dependency.Manager.
func (m *Manager) Extract(_ context.Context, repository fs.FS, file string) ([]dependency.Dependency, error) {
	return Extract(repository, file, m.find)
}

// Edit implements dependency.Manager.
func (m *Manager) Edit(content []byte, d dependency.Dependency, to dependency.Update) ([]byte, error) {
	return Edit(content, m.find, d, to)
}
