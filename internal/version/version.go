// Package version says which Upkeep this is.
package version

import "runtime/debug"

// stamped is set at build time: -ldflags "-X github.com/upkeep-run/upkeep/internal/version.stamped=v1.2.3".
var stamped string

// String is the version for people, manifests and worker identities.
func String() string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
