package kube

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/upkeep-run/upkeep/internal/failure"
)

const (
	// pageSize is how many objects are asked for at once.
	pageSize = 500
	// maxObjects bounds the objects of one list that are looked through.
	maxObjects = 20_000
)

// Pages reads a list page by page; next reads one, and returns where the next begins and how many there were.
// Doing is what could not be done, as for Classify.
func Pages(doing string, next func(metav1.ListOptions) (token string, n int, err error)) error {
	seen := 0
	for options := (metav1.ListOptions{Limit: pageSize}); ; {
		token, n, err := next(options)
		if err != nil {
			return Classify(err, doing)
		}
		if seen += n; seen > maxObjects {
			return failure.New(failure.BadConfig, "could not %s: there are more than %d", doing, maxObjects).
				Do("remove those that are not needed any more, and start a new run")
		}
		if options.Continue = token; token == "" {
			return nil
		}
	}
}
