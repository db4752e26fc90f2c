package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNext(t *testing.T) {
	ago := func(d time.Duration) time.Duration { return Next(time.Now().Add(-d), time.Second) }
	require.Equal(t, least, ago(0))
	require.Equal(t, time.Second, ago(time.Hour))
	require.GreaterOrEqual(t, ago(5*time.Second), 500*time.Millisecond)
	require.Equal(t, 50*time.Millisecond, Next(time.Now(), 50*time.Millisecond))
}
