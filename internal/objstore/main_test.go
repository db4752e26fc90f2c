package objstore_test

import (
	"os"
	"testing"

	"github.com/upkeep-run/upkeep/internal/objstore/objstoretest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	objstoretest.RemoveS3()
	os.Exit(code)
}
