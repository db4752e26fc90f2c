package promquery

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/upkeep-run/upkeep/internal/failure"
)

func TestReplies(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		reply  string
		want   []float64
		code   failure.Code
	}{
		"a vector":       {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"1.5"]},{"metric":{"a":"b"},"value":[1,"2"]}]}}`, []float64{1.5, 2}, ""},
		"a scalar":       {200, `{"status":"success","data":{"resultType":"scalar","result":[1,"3"]}}`, []float64{3}, ""},
		"nothing":        {200, `{"status":"success","data":{"resultType":"vector","result":[]}}`, []float64{}, ""},
		"a matrix":       {200, `{"status":"success","data":{"resultType":"matrix","result":[]}}`, nil, failure.BadInput},
		"a bad query":    {400, `{"status":"error","errorType":"bad_data","error":"parse error"}`, nil, failure.BadInput},
		"a server error": {503, `busy`, nil, failure.ServerUnreachable},
		"a redirect":     {302, ``, nil, failure.ServerUnreachable},
		"no JSON":        {200, `<html>`, nil, failure.ServerUnreachable},
		"a huge reply":   {200, `{"status":"success","data":{"resultType":"vector","result":[` + strings.Repeat(" ", maxReply) + `]}}`, nil, failure.ServerUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				require.Equal(t, "up", r.FormValue("query"))
				if c.status == 302 {
					w.Header().Set("Location", "http://127.0.0.1:1/")
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.reply))
			}))
			defer s.Close()
			values, err := Instant(t.Context(), func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", s.Listener.Addr().String())
			}, "up")
			if c.code == "" {
				require.NoError(t, err)
				require.Equal(t, c.want, values)
				return
			}
			require.True(t, failure.Is(err, c.code), "%v", err)
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	_, err := Instant(t.Context(), func(context.Context) (net.Conn, error) {
		return nil, failure.New(failure.ClusterUnreachable, "no way")
	}, "up")
	require.Error(t, err)
}
