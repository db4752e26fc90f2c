package bake

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/upkeep-run/upkeep/internal/health"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// Workload names a Deployment, StatefulSet or DaemonSet of the release.
type Workload struct{ Kind, Name string }

// IsWorkload reports whether objects of a kind are watched.
func IsWorkload(kind string) bool {
	return kind == health.Deployment || kind == health.StatefulSet || kind == health.DaemonSet
}

// Restarts counts how often containers were started again, by pod and container.
type Restarts map[string]int32

// Since names the containers that were started again since an earlier count.
func (r Restarts) Since(before Restarts) []string {
	var names []string
	for name, n := range r {
		if n > before[name] {
			names = append(names, fmt.Sprintf("%s (%d times)", name, n-before[name]))
		}
	}
	slices.Sort(names)
	return names
}

// Observe looks at workloads and their pods.
func Observe(ctx context.Context, c *kube.Cluster, workloads []Workload) (unready []string, restarts Restarts, err error) {
	restarts = make(Restarts)
	for _, w := range workloads {
		seen, counts, err := health.See(ctx, c, w.Kind, w.Name)
		if err != nil {
			return nil, nil, err
		}
		if lacks := seen.Lacks(); lacks != "" {
			unready = append(unready, lacks)
		}
		maps.Copy(restarts, counts)
	}
	return unready, restarts, nil
}
