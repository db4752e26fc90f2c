// Package zaplog makes zap the log of Temporal's SDK.
package zaplog

import (
	"fmt"

	"go.temporal.io/sdk/log"
	"go.uber.org/zap"
)

// New returns a logger that writes JSON lines to stderr, or text for people when verbose.
func New(verbose bool) (*zap.Logger, error) {
	if verbose {
		c := zap.NewDevelopmentConfig()
		c.DisableStacktrace = true
		return c.Build()
	}
	c := zap.NewProductionConfig()
	c.DisableStacktrace = true
	c.Sampling = nil
	return c.Build()
}

// adapter writes the SDK's log lines with zap.
type adapter struct{ zap *zap.Logger }

// Temporal adapts a zap logger for the SDK.
func Temporal(z *zap.Logger) log.Logger { return adapter{z.WithOptions(zap.AddCallerSkip(1))} }

func (a adapter) Debug(msg string, kv ...any) { a.zap.Debug(msg, fields(kv)...) }
func (a adapter) Info(msg string, kv ...any)  { a.zap.Info(msg, fields(kv)...) }
func (a adapter) Warn(msg string, kv ...any)  { a.zap.Warn(msg, fields(kv)...) }
func (a adapter) Error(msg string, kv ...any) { a.zap.Error(msg, fields(kv)...) }

// With and WithCallerSkip let the SDK add to every line.
func (a adapter) With(kv ...any) log.Logger { return adapter{a.zap.With(fields(kv)...)} }

// WithCallerSkip skips callers of the SDK.
func (a adapter) WithCallerSkip(n int) log.Logger {
	return adapter{a.zap.WithOptions(zap.AddCallerSkip(n))}
}

func fields(kv []any) []zap.Field {
	out := make([]zap.Field, 0, (len(kv)+1)/2)
	for i := 0; i < len(kv); i += 2 {
		if i+1 == len(kv) {
			return append(out, zap.Any("extra", kv[i]))
		}
		out = append(out, zap.Any(fmt.Sprint(kv[i]), kv[i+1]))
	}
	return out
}
