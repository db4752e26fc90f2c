package catalog

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/upkeep-run/upkeep/internal/format"
	"github.com/upkeep-run/upkeep/internal/keyring"
)

// maxWindow bounds the memory that a sealed manifest can make a reader use, in bytes.
const maxWindow = 16 << 20

// seal packs and encrypts a manifest's file.
func seal(key *keyring.Key, plain []byte) ([]byte, error) {
	packer, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, fmt.Errorf("pack the manifest: %w", err)
	}
	return key.Encrypt(nil, packer.EncodeAll(plain, nil))
}

// unseal is the way back. It never unpacks more than a manifest can have.
func unseal(key *keyring.Key, sealed []byte) ([]byte, error) {
	packed, err := key.Decrypt(bytes.NewReader(sealed))
	if err != nil {
		return nil, err
	}
	r, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain, err := io.ReadAll(io.LimitReader(r, format.MaxManifest+1))
	if err == nil && len(plain) > format.MaxManifest {
		err = fmt.Errorf("it unpacks to more than %d bytes", format.MaxManifest)
	}
	return plain, err
}
