//go:build !cgo

package chunk

import (
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// window is how far back, in bytes, the packer looks for what it has seen.
const window = 512 << 10

// packer makes zstd frames without a C compiler's help.
type packer struct{ encoder *zstd.Encoder }

func newPacker() *packer {
	// The options are constants, so no error can come of them. EncodeAll uses as many encoders as
	// there are callers at once, up to the concurrency.
	encoder, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderCRC(false), zstd.WithWindowSize(window))
	return &packer{encoder: encoder}
}

// pack makes one frame, in the memory of into where that is large enough.
func (p *packer) pack(into, plain []byte) ([]byte, error) {
	return p.encoder.EncodeAll(plain, into[:0]), nil
}
