package lock

import (
	"os"
	"path/filepath"
)

// FromEnvironment is how the operator of a process has set up where packages come from: Go's own variables
// and npm's file of the user. Everything else of the environment stays out.
func FromEnvironment(lookupEnv func(string) (string, bool), cache string) Tools {
	t := Tools{Cache: cache}
	for _, name := range settings {
		if v, ok := lookupEnv(name); ok && v != "" {
			t.GoEnv = append(t.GoEnv, name+"="+v)
		}
	}
	for _, name := range []string{"NPM_CONFIG_USERCONFIG", "npm_config_userconfig"} {
		if v, ok := lookupEnv(name); ok && v != "" {
			t.NPMRC = v
		}
	}
	if home, err := os.UserHomeDir(); t.NPMRC == "" && err == nil {
		if file := filepath.Join(home, ".npmrc"); canRead(file) {
			t.NPMRC = file
		}
	}
	return t
}

func canRead(file string) bool {
	f, err := os.Open(file) //nolint:gosec // the operator's own
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}
