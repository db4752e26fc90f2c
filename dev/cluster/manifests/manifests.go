// Package manifests holds what is applied to the cluster when it starts.
package manifests

import _ "embed"

// Addons are the cluster's DNS, its metrics and its storage.
//
//go:embed addons.yaml
var Addons string

// Probe claims a volume and runs a pod that writes to it.
//
//go:embed probe.yaml
var Probe string
