package image

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Prefix is that of all images' names; no registry has it, so that nothing is ever pulled by mistake.
const Prefix = "upkeep.test/"

// Static makes the image of one static program.
func Static(name, program string) (*Image, error) {
	i := New(Prefix+name+":dev", "/"+name)
	return i, i.File("/"+name, program)
}

// Busybox makes an image of small tools: a shell, nc, wget and the rest, all links to one program.
func Busybox(ctx context.Context) (*Image, error) {
	i := New(Prefix+"busybox:dev", "/bin/sh")
	if err := i.Busybox(ctx); err != nil {
		return nil, err
	}
	return i, i.Libraries(ctx) // none of busybox-static's, but the machine may have another
}

// Busybox adds a shell and small tools.
func (i *Image) Busybox(ctx context.Context) error {
	const busybox = "/bin/busybox"
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s is missing; install busybox-static: %w", busybox, err)
	}
	if err := i.File("/bin/busybox", busybox); err != nil {
		return err
	}
	for _, tool := range strings.Fields(string(list)) {
		if tool != "busybox" {
			i.Link("/bin/"+tool, "busybox")
		}
	}
	return nil
}

// Prometheus makes an image of the machine's Prometheus.
func Prometheus(ctx context.Context) (*Image, error) {
	i := New(Prefix+"prometheus:dev", "/usr/bin/prometheus")
	i.User = "65534:65534"
	if err := i.Busybox(ctx); err != nil { // du and ls, for a person who looks at its data
		return nil, err
	}
	for _, program := range []string{"/usr/bin/prometheus", "/usr/bin/promtool"} {
		if err := i.File(program, program); err != nil {
			return nil, fmt.Errorf("%w; install prometheus", err)
		}
	}
	i.Folder("/prometheus", 0o777)
	return i, i.Libraries(ctx)
}

// postgresStart makes the server's data on the first start, with the password of a mounted Secret.
const postgresStart = `#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb -D "$PGDATA" -U postgres -E UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256 --pwfile="$PGPWFILE"
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*'
`

// PostgresFolders are the folders of the machine's PostgreSQL versions that have a program, the oldest first.
func PostgresFolders(program string) ([]string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("the machine has no PostgreSQL with %s in /usr/lib/postgresql; install postgresql", program)
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	for n, name := range found {
		found[n] = filepath.Dir(filepath.Dir(name))
	}
	return found, nil
}

// PostgresServer adds a PostgreSQL of the machine, server and client programs, with what a server reads;
// its libraries come with Libraries.
func (i *Image) PostgresServer(lib string) error {
	skipped := func(name string) bool {
		base := filepath.Base(name)
		return base == "bitcode" || base == "pgxs" || base == "man" || strings.HasPrefix(base, "llvmjit") || strings.HasSuffix(base, ".a") || base == "right" || base == "posix"
	}
	for _, tree := range []string{lib, "/usr/share/postgresql/" + filepath.Base(lib), "/usr/share/zoneinfo", "/usr/lib/locale/C.utf8"} {
		if err := i.Tree(tree, skipped); err != nil {
			return err
		}
	}
	i.Folder("/var/run/postgresql", 0o777)
	return nil
}

// Postgres makes the test cluster's image of the machine's newest PostgreSQL.
func Postgres(ctx context.Context) (*Image, error) {
	i, _, err := NewestPostgres(ctx, "/data", postgresStart)
	if err != nil {
		return nil, err
	}
	i.Name = Prefix + "postgres:dev"
	i.Env = append(i.Env, "PGDATA=/data/pgdata", "PGPWFILE=/password/postgres-password")
	i.Folder("/data", 0o777)
	return i, nil
}

// NewestPostgres begins an image of the machine's newest PostgreSQL: the server and its client programs, with
// files of its own, so that an upgrade of the machine's packages does not break a server that runs. Home is
// its OS user's, start the script that starts it. The major version is returned beside it.
func NewestPostgres(ctx context.Context, home, start string) (i *Image, major string, err error) {
	servers, err := PostgresFolders("initdb")
	if err != nil {
		return nil, "", err
	}
	lib := servers[len(servers)-1]
	i = New("", "/usr/local/bin/start")
	i.User, i.StopSignal = "999:999", "SIGINT" // a fast shutdown: the default waits for every client to leave
	i.Env = []string{"PATH=/usr/local/bin:" + lib + "/bin:/usr/bin:/bin", "LANG=C.UTF-8"}
	if err := i.Busybox(ctx); err != nil {
		return nil, "", err
	}
	if err := i.PostgresServer(lib); err != nil {
		return nil, "", err
	}
	if err := i.Libraries(ctx); err != nil {
		return nil, "", err
	}
	i.Text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::"+home+":/bin/sh\n", 0o644)
	i.Text("/etc/group", "root:x:0:\npostgres:x:999:\n", 0o644)
	i.Text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)
	i.Text("/usr/local/bin/start", start, 0o755)
	return i, filepath.Base(lib), nil
}

// Import gives an image to a containerd, whose socket is named, for Kubernetes.
func Import(ctx context.Context, i *Image, socket, folder string) error {
	archive := filepath.Join(folder, strings.NewReplacer("/", "-", ":", "-").Replace(i.Name)+".tar")
	if err := i.Write(archive); err != nil {
		return err
	}
	defer os.Remove(archive)
	return ImportArchive(ctx, archive, socket)
}

// ImportArchive is Import of an image that is written already.
func ImportArchive(ctx context.Context, archive, socket string) error {
	var output bytes.Buffer
	ctr := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive)
	ctr.Stdout, ctr.Stderr = &output, &output
	if err := ctr.Run(); err != nil {
		return fmt.Errorf("importing %s: %w: %s", archive, err, strings.TrimSpace(output.String()))
	}
	return nil
}
