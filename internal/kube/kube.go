// Package kube reaches Kubernetes clusters for Upkeep's engines: one client without a throttle of its own,
// classified errors, connections to ports of pods, and what is asked of names before anything is touched.
package kube

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/strictjson"
	"github.com/upkeep-run/upkeep/internal/version"
)

// requestTimeout bounds one request to the API server.
const requestTimeout = 30 * time.Second

// Options say how to reach a cluster, and what of it is meant.
type Options struct {
	// Kubeconfig returns the text of a kubeconfig. Nil: inside a cluster the pod's own account, else
	// $KUBECONFIG or ~/.kube/config.
	Kubeconfig func(ctx context.Context) (string, error)
	// Context is the kubeconfig's context; its current one when empty.
	Context string
	// Namespace is where the target lives.
	Namespace string
}

// Cluster is a namespace of a cluster.
type Cluster struct {
	// Client speaks protobuf and has no limit of its own: the API server's priority and fairness decides.
	Client kubernetes.Interface
	// Config is for clients of other kinds; it has no credentials in its text.
	Config *rest.Config
	// Namespace is where the target lives.
	Namespace string
	// Inside says that this process runs in a pod of the cluster and is not told otherwise.
	Inside bool
}

// Connect makes a client. Nothing is asked of the server yet, except where a kubeconfig says how to log in.
func Connect(ctx context.Context, o Options) (*Cluster, error) {
	if err := CheckNamespace(o.Namespace); err != nil {
		return nil, err
	}
	cfg, inside, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, 0 // none: fifty pods would take forty seconds
	cfg.Timeout = requestTimeout
	cfg.UserAgent = "upkeep/" + version.String()
	cfg.WarningHandler = rest.NoWarnings{} // of deprecated versions, in the log of a worker that cannot help it
	fast := rest.CopyConfig(cfg)
	fast.ContentType = "application/vnd.kubernetes.protobuf"
	fast.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(fast)
	if err != nil {
		return nil, badKubeconfig(err)
	}
	return &Cluster{Client: client, Config: cfg, Namespace: o.Namespace, Inside: inside}, nil
}

func (o Options) load(ctx context.Context) (cfg *rest.Config, inside bool, err error) {
	if o.Kubeconfig == nil && o.Context == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" && os.Getenv("KUBECONFIG") == "" {
		cfg, err = rest.InClusterConfig()
		if err != nil {
			return nil, false, failure.New(failure.ClusterLogin, "the worker's pod has no account to log in to its cluster with").Because(err).
				Do("give the pod a service account with a token (automountServiceAccountToken), or name a kubeconfig with kubernetes.kubeconfigFrom, then resume the run")
		}
		return cfg, true, nil
	}
	var file *clientcmdapi.Config
	if o.Kubeconfig == nil {
		file, err = clientcmd.NewDefaultClientConfigLoadingRules().Load()
	} else {
		var text string
		if text, err = o.Kubeconfig(ctx); err != nil {
			return nil, false, err
		}
		file, err = clientcmd.Load([]byte(text))
	}
	if err != nil {
		return nil, false, badKubeconfig(err)
	}
	if len(file.Contexts) == 0 {
		return nil, false, badKubeconfig(errors.New("it has no contexts"))
	}
	if _, ok := file.Contexts[o.Context]; !ok && o.Context != "" {
		known := slices.Sorted(maps.Keys(file.Contexts))
		f := failure.New(failure.BadConfig, "the kubeconfig has no context %.100q", o.Context)
		if near := strictjson.Nearest(o.Context, known); near != "" {
			return nil, false, f.Do("did you mean %q? correct kubernetes.context in upkeep.yaml and start a new run", near)
		}
		return nil, false, f.Do("use one of: %.200s", strings.Join(known, ", "))
	}
	cfg, err = clientcmd.NewNonInteractiveClientConfig(*file, o.Context, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, false, badKubeconfig(err)
	}
	return cfg, false, nil
}

// badKubeconfig says nothing of what is in the file but what is wrong with its structure.
func badKubeconfig(err error) error {
	return failure.New(failure.BadConfig, "the kubeconfig cannot be used").Because(err).
		Do("correct the file that kubernetes.kubeconfigFrom names (on the worker; without it $KUBECONFIG or ~/.kube/config), then start a new run")
}
