//go:build tools

// Package tools pins the OCI registry that the end-to-end tests run.
package tools

import _ "github.com/distribution/distribution/v3/cmd/registry"
