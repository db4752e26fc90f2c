// Command upkeep-image makes Upkeep's container image of the machine's own files, without a container
// engine and without a registry. deploy/Dockerfile makes the same of Debian's, for those who can pull.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/upkeep-run/upkeep/dev/kit/image"
)

// user is the id that the image runs as: no user of a machine has it.
const user = 10001

// options say what goes into the image.
type options struct {
	programs string // the folder that has upkeep and upkeep-worker
	version  string // the image's tag
	server   bool   // with PostgreSQL's server programs
	code     bool   // with what makes lock files
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.programs, "programs", "bin", "the folder that has upkeep and upkeep-worker")
	flag.StringVar(&o.version, "version", "dev", "Upkeep's version, the image's tag")
	flag.BoolVar(&o.server, "with-postgres-server", false, "with PostgreSQL's server programs, which private scratch servers need")
	flag.BoolVar(&o.code, "with-lock-tools", false, "with Go, Node and npm, which make lock files")
	to := flag.String("to", "upkeep.tar", "the archive to write")
	flag.Parse()
	i, err := build(ctx, o)
	if err == nil {
		err = i.Write(*to)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "upkeep-image:", err)
		os.Exit(1)
	}
	fmt.Println(i.Name)
}

var tag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}$`)

func build(ctx context.Context, o options) (*image.Image, error) {
	if !tag.MatchString(o.version) {
		return nil, fmt.Errorf("the version %q cannot be the tag of an image; say another with VERSION=", o.version)
	}
	name := "upkeep:" + o.version
	if o.server {
		name += "-server"
	}
	if o.code {
		name += "-code"
	}
	// tini waits for what outlives its parent: git's helpers, a scratch server's processes.
	i := image.New(name, "/usr/bin/tini", "--")
	i.Cmd = []string{"upkeep-worker", "--config", "/etc/upkeep/upkeep.yaml", "--data", "/var/lib/upkeep-worker", "--health-address", "0.0.0.0:8091"}
	i.User, i.StopSignal = fmt.Sprintf("%d:%d", user, user), "SIGTERM"
	i.Volumes = []string{"/var/lib/upkeep", "/var/lib/upkeep-worker"}
	i.Labels = map[string]string{"org.opencontainers.image.title": "upkeep", "org.opencontainers.image.version": o.version}
	i.Text("/etc/passwd", fmt.Sprintf("root:x:0:0:root:/root:/usr/sbin/nologin\nupkeep:x:%d:%d::/var/lib/upkeep-worker:/usr/sbin/nologin\n", user, user), 0o644)
	i.Text("/etc/group", fmt.Sprintf("root:x:0:\nupkeep:x:%d:\n", user), 0o644)
	i.Text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)
	i.Owned("/var/lib/upkeep", 0o750, user)
	i.Owned("/var/lib/upkeep-worker", 0o711, user)

	files := map[string]string{
		"/usr/local/bin/upkeep":              filepath.Join(o.programs, "upkeep"),
		"/usr/local/bin/upkeep-worker":       filepath.Join(o.programs, "upkeep-worker"),
		"/etc/ssl/certs/ca-certificates.crt": "",
		"/usr/bin/tini":                      "",
		"/usr/bin/git":                       "",
		"/usr/lib/git-core/git-remote-http":  "",
	}
	for place, source := range files {
		if source == "" {
			source = place
		}
		if err := i.File(place, source); err != nil {
			return nil, fmt.Errorf("%w; install ca-certificates, tini and git, and build Upkeep's programs", err)
		}
	}
	i.Link("/usr/lib/git-core/git-remote-https", "git-remote-http")
	if err := i.Tree("/usr/share/git-core/templates", nil); err != nil {
		return nil, err
	}
	if err := addPostgres(i, o.server); err != nil {
		return nil, err
	}
	if o.code {
		if err := addLockTools(ctx, i); err != nil {
			return nil, err
		}
	}
	return i, i.Libraries(ctx)
}

// addPostgres adds the client programs of every major version that the machine has, and if wanted those
// of its servers. A server's initdb calls a shell; nothing else in the image does, and without a server
// it has none.
func addPostgres(i *image.Image, server bool) error {
	clients, err := image.PostgresFolders("pg_dump")
	if err != nil {
		return err
	}
	var versions []string
	for _, lib := range clients {
		versions = append(versions, filepath.Base(lib))
		for _, program := range []string{"pg_dump", "pg_dumpall", "pg_restore", "pg_isready", "psql"} {
			if err := i.File(filepath.Join(lib, "bin", program), filepath.Join(lib, "bin", program)); err != nil {
				return err
			}
		}
	}
	i.Labels["run.upkeep.postgresql.client"] = strings.Join(versions, " ")
	if !server {
		return nil
	}
	servers, err := image.PostgresFolders("initdb")
	if err != nil {
		return err
	}
	versions = nil
	for _, lib := range servers {
		versions = append(versions, filepath.Base(lib))
		if err := i.PostgresServer(lib); err != nil {
			return err
		}
	}
	i.Labels["run.upkeep.postgresql.server"] = strings.Join(versions, " ")
	i.Link("/bin/sh", "busybox")
	return i.File("/bin/busybox", "/bin/busybox")
}
