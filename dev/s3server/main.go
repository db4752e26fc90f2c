// Command s3server serves a folder as an S3 bucket, for tests: the Versity S3 Gateway, listening on a
// Unix socket. It is a module of its own, so that nothing of it comes near the product.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "s3server:", err)
		os.Exit(1)
	}
}

// serve takes a folder of buckets, a socket, and maybe a folder for hidden versions, and the account from the environment. It ends with
// whoever started it, so that a killed test leaves no server.
func serve() error {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		return fmt.Errorf("usage: s3server FOLDER SOCKET [FOLDER FOR VERSIONS], with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	buckets, socket := os.Args[1], os.Args[2]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	options := posix.PosixOpts{NewDirPerm: 0o750, Concurrency: 64}
	if len(os.Args) == 4 {
		options.VersioningDir = os.Args[3] // of the buckets that are told to keep versions; without it, none can be
	}
	var attributes meta.MetadataStorer = meta.XattrMeta{}
	if err := (meta.XattrMeta{}).Test(buckets); err != nil { // a file system without extended attributes
		sidecar := filepath.Join(filepath.Dir(socket), "attributes")
		if err := os.Mkdir(sidecar, 0o750); err != nil {
			return err
		}
		options.SideCarDir = sidecar
		if attributes, err = meta.NewSideCar(sidecar); err != nil {
			return err
		}
	}
	backend, err := posix.New(buckets, attributes, options)
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess: os.Getenv("AWS_ACCESS_KEY_ID"), RootUserSecret: os.Getenv("AWS_SECRET_ACCESS_KEY"), Region: "us-east-1",
		Ports: []string{socket}, SocketPerm: "0600", MaxConnections: 1000, MaxRequests: 500, MultipartMaxParts: 10000, KeepAlive: true, Quiet: true,
	})
}
