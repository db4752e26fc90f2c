// Command cluster runs a real Kubernetes cluster of one node on this machine, made of programs that it
// builds itself: kube-apiserver to kubelet, containerd, kube-proxy, network policies, DNS, metrics,
// storage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/upkeep-run/upkeep/dev/cluster/internal/cluster"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/layout"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/node"
	"github.com/upkeep-run/upkeep/dev/cluster/internal/parts"
	"github.com/upkeep-run/upkeep/dev/kit/image"
	"github.com/upkeep-run/upkeep/dev/kit/part"
)

const usage = `usage: cluster COMMAND
  build    build the programs that the cluster is made of
  up       bring the cluster up, and print the path of its kubeconfig
  status   say whether it is up (exit code 0) or not (1)
  down     remove it, after a crash too
  tools    build kubectl and helm, and print the folder that they are in
  images   --web PROGRAM [--to FOLDER]: make the images of dev/stack and give them to the cluster,
           or write them as archives for any other cluster
  import   ARCHIVE...: give the cluster images that are made already
  kill     PROGRAM: end one of the node's programs, such as kube-apiserver, which the node then starts again
  freeze   PROGRAM: stop one for as long as it is not thawed, such as kubelet
  thaw     PROGRAM: let it go on`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := do(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func do(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	if args[0] == node.Argument {
		return node.Run()
	}
	began := time.Now()
	say := func(format string, args ...any) { // to stderr: stdout is for what another program reads
		fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	cache, err := part.CacheDir("cluster")
	if err != nil {
		return err
	}
	source, err := sourceFolder()
	if err != nil {
		return err
	}
	c := &cluster.Cluster{Say: say, Builder: part.Builder{Source: source, Cache: cache, Say: say}}
	switch args[0] {
	case "build":
		_, err := c.Builder.Build(ctx, parts.All...)
		return err
	case "up":
		if err := c.Up(ctx); err != nil {
			return err
		}
		fmt.Println(layout.Kubeconfig)
		return nil
	case "status":
		up, err := cluster.IsUp()
		if err == nil && !up {
			err = errors.New("the cluster is not up")
		}
		if err == nil {
			fmt.Println(layout.Kubeconfig)
		}
		return err
	case "down":
		return c.Down(ctx)
	case "tools":
		folder, err := c.Tools(ctx)
		if err == nil {
			fmt.Println(folder)
		}
		return err
	case "images":
		return images(ctx, c, args[1:])
	case "import":
		for _, archive := range args[1:] {
			if err := image.ImportArchive(ctx, archive, layout.Containerd); err != nil {
				return err
			}
		}
		return nil
	case "kill", "freeze", "thaw":
		if len(args) != 2 {
			return fmt.Errorf("%s: name one program", args[0])
		}
		return cluster.Signal(args[1], map[string]syscall.Signal{"kill": syscall.SIGKILL, "freeze": syscall.SIGSTOP, "thaw": syscall.SIGCONT}[args[0]])
	}
	return fmt.Errorf("%q is no command\n%s", args[0], usage)
}

// images makes what dev/stack runs.
func images(ctx context.Context, c *cluster.Cluster, args []string) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	web := flags.String("web", "", "the web service's program, static")
	to := flags.String("to", "", "a folder for archives")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *web == "" {
		return errors.New("images: --web is missing: the program built of dev/stack/web")
	}
	if up, err := cluster.IsUp(); *to == "" && !up {
		return errors.Join(errors.New("images: the cluster is not up; bring it up first, or say --to FOLDER"), err)
	}
	service, err := image.Static("web", *web)
	if err != nil {
		return err
	}
	busybox, err := image.Busybox(ctx)
	if err != nil {
		return err
	}
	postgres, err := image.Postgres(ctx)
	if err != nil {
		return err
	}
	prometheus, err := image.Prometheus(ctx)
	if err != nil {
		return err
	}
	all := map[string]*image.Image{"web": service, "busybox": busybox, "postgres": postgres, "prometheus": prometheus}
	if *to == "" {
		return c.Import(ctx, service, busybox, postgres, prometheus)
	}
	for name, i := range all {
		path := filepath.Join(*to, name+".tar")
		if err := i.Write(path); err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}

// sourceFolder finds dev/cluster of the checkout that the program is called in.
func sourceFolder() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; folder = filepath.Dir(folder) {
		for _, candidate := range []string{folder, filepath.Join(folder, "dev", "cluster")} {
			if _, err := os.Stat(filepath.Join(candidate, parts.Kubernetes.Module, "go.mod")); err == nil {
				return candidate, nil
			}
		}
		if folder == filepath.Dir(folder) {
			return "", errors.New("this is to be called in a checkout of Upkeep")
		}
	}
}
