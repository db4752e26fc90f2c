//go:build e2e

package helm

import (
	"testing"

	"github.com/upkeep-run/upkeep/internal/helmrelease"
)

func TestX(t *testing.T) { _ = helmrelease.Open }
