package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// rival is another way to take a backup.
type rival struct {
	name string
	// commands are one program, or two with a pipe between them; OUT is where the backup goes and DSN
	// the database.
	commands [][]string
	once     bool // measured in the first round only: it is slow, and stands for a size or for another's input
}

// dump is a call of pg_dump.
func (d *database) dump(args ...string) []string {
	return append([]string{d.program("pg_dump"), "-d", "DSN"}, args...)
}

// plain is pg_dump's own output, uncompressed.
func (d *database) plain() rival { return rival{commands: [][]string{d.dump("-f", "OUT")}} }

// rivals are the ways that are measured. pg_dump knows zstd from version 16.
func (d *database) rivals() []rival {
	all := []rival{
		{name: "pg_dump | gzip", commands: [][]string{d.dump(), {"gzip"}}},
		{name: "pg_dump -Fc", commands: [][]string{d.dump("-Fc", "-f", "OUT")}, once: true},
		{name: "pg_dump -Fd -j2", commands: [][]string{d.dump("-Fd", "-j2", "-f", "OUT")}, once: true},
		{name: "pg_dump -Fd -j2 -Z1", commands: [][]string{d.dump("-Fd", "-j2", "-Z1", "-f", "OUT")}},
		{name: "pg_dump | zstd -1 -T2", commands: [][]string{d.dump(), {"zstd", "-q", "-1", "-T2"}}},
	}
	if d.binaries.Major >= 16 {
		all = append(all, rival{name: "pg_dump -Fd -j2 -Z zstd:1", commands: [][]string{d.dump("-Fd", "-j2", "-Z", "zstd:1", "-f", "OUT")}})
	}
	return all
}

// restorable is the name of the backup that pg_restore brings back: its own default.
const restorable = "pg_dump -Fd -j2"

func (d *database) program(name string) string { return filepath.Join(d.binaries.Dir, name) }

// backup runs a rival on a set.
func (d *database) backup(ctx context.Context, r rival, s set, out string) error {
	fill := strings.NewReplacer("OUT", out, "DSN", d.server.DSN("", s.name))
	var commands []*exec.Cmd
	for _, words := range r.commands {
		filled := make([]string, len(words))
		for i, w := range words {
			filled[i] = fill.Replace(w)
		}
		cmd := exec.CommandContext(ctx, filled[0], filled[1:]...)
		cmd.Stderr = os.Stderr
		commands = append(commands, cmd)
	}
	if len(commands) == 1 {
		return commands[0].Run()
	}
	return pipe(commands[0], commands[1], out)
}

// pipe runs two programs, the second with the first's output, into a file. Both must succeed.
func pipe(first, second *exec.Cmd, out string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	first.Stdout, second.Stdin, second.Stdout = w, r, f
	if err := first.Start(); err != nil {
		return errors.Join(err, r.Close(), w.Close())
	}
	err = second.Start()
	if err = errors.Join(err, r.Close(), w.Close()); err != nil {
		return errors.Join(err, first.Process.Kill(), first.Wait())
	}
	return errors.Join(first.Wait(), second.Wait())
}

// restore brings a rival's backup back into a new database.
func (d *database) restore(ctx context.Context, from, name string) error {
	if err := d.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, d.program("pg_restore"), "-j2", "--exit-on-error", "-d", d.server.DSN("", name), from)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
