// Package fault lets tests break Upkeep on purpose. A Point is a place before
// or after an outside effect, where a test kills or freezes the process; a
// Mutant is a fault of the engine that the proof must find. Both are inert
// unless the program was built with the tag "fault" (see armed.go), so a
// production binary cannot be told to fail.
package fault

import (
	"sort"
	"sync"
)

// Point is a named place where a test may stop the process.
type Point struct{ name string }

// Mutant is a named, deliberate fault of the engine.
type Mutant struct{ name string }

var (
	mu      sync.Mutex
	points  []string
	mutants []string
)

// NewPoint registers a point; call it from a package-level var. The name is
// "<engine>/<effect>/<before|after>", for example "backup/chunk/before".
func NewPoint(name string) Point {
	mu.Lock()
	defer mu.Unlock()
	points = append(points, name)
	return Point{name}
}

// NewMutant registers a mutant; call it from a package-level var. The name says
// the fault, for example "skip-last-range".
func NewMutant(name string) Mutant {
	mu.Lock()
	defer mu.Unlock()
	mutants = append(mutants, name)
	return Mutant{name}
}

// Points lists every registered point, sorted.
func Points() []string { return sorted(points) }

// Mutants lists every registered mutant, sorted.
func Mutants() []string { return sorted(mutants) }

func sorted(in []string) []string {
	mu.Lock()
	defer mu.Unlock()
	out := append([]string(nil), in...)
	sort.Strings(out)
	return out
}
