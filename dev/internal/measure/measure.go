// Package measure is what the benchmarks share: how figures are put together, on what machine they were
// found, and how they are written for people.
package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Say tells a person how far it is.
func Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// Write writes a report to a file anew, or to standard output without a path.
func Write(path string, report func(io.Writer) error) error {
	if path == "" {
		return report(os.Stdout)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(report(f), f.Close())
}

// Median is the one in the middle, or between the two there; 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Ratio is the median of what two series make round by round.
func Ratio(of, to []float64) float64 {
	var each []float64
	for i := range min(len(of), len(to)) {
		each = append(each, of[i]/to[i])
	}
	return Median(each)
}

// Percentile is the value that so many of a hundred are not above.
func Percentile(values []float64, p int) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[(len(v)-1)*p/100]
}

// Spread is the median with the least and the most behind, and of how many.
func Spread(values []float64) string {
	return fmt.Sprintf("%.1f (%.1f to %.1f) [%d]", Median(values), slices.Min(values), slices.Max(values), len(values))
}

// Cell is a text for a table's cell, where a pipe would end it.
func Cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// Machine says what the measurements ran on.
func Machine() string {
	return fmt.Sprintf("%d cores (%s), %s of memory, Linux %s", runtime.NumCPU(), fact("/proc/cpuinfo", "model name"), gibibytes("/proc/meminfo", "MemTotal"), firstLine("/proc/sys/kernel/osrelease"))
}

// VersionOf asks a program for its version; the first line of it.
func VersionOf(ctx context.Context, program string, args ...string) (string, error) {
	if len(args) == 0 {
		args = []string{"--version"}
	}
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.Trim(line, "* "), nil
}

// fact reads a named line of one of the kernel's files.
func fact(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(data))
}

func gibibytes(path, name string) string {
	var kib int64
	if n, _ := fmt.Sscanf(fact(path, name), "%d kB", &kib); n != 1 {
		return "unknown"
	}
	return fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
}
