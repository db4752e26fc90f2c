// Package helmrelease looks at, changes, rolls back and unlocks a release of Helm. It is the only
// package that knows Helm's library, and lets none of its types out.
//
// An operation (an upgrade, a rollback, a clearing) has a key of the caller's, and is done once however
// often it is asked for: its record in Helm's own storage is made first and says whose it is, and
// whoever comes after a killed attempt goes on with that record, as it was rendered then. A Lease beside
// the release keeps attempts apart, and keeps the journal of what ran (see lease.go).
package helmrelease

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/upkeep-run/upkeep/internal/failure"
	"github.com/upkeep-run/upkeep/internal/kube"
)

// Release is a release by its name, whether it is there or not.
type Release struct {
	namespace, name string
	config          *rest.Config
	set             kubernetes.Interface
	meta            metadata.Interface
}

// Open names a release of the cluster; it asks the cluster nothing.
func Open(config *rest.Config, namespace, name string) (*Release, error) {
	if errs := validation.IsDNS1123Label(namespace); len(errs) > 0 {
		return nil, failure.New(failure.BadInput, "%q is no name of a namespace", namespace).Do("write the namespace of the release")
	}
	if err := chartutil.ValidateReleaseName(name); err != nil {
		return nil, failure.New(failure.BadInput, "%q is no name of a release", name).Do("write a name as helm list shows it")
	}
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server's own fairness decides, not a guess made here
	config.Timeout = requestWithin
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return again{next} })
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, kube.Classify(err, "make a client of the cluster")
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, kube.Classify(err, "make a client of the cluster")
	}
	return &Release{namespace: namespace, name: name, config: config, set: set, meta: meta}, nil
}

// Object names an object of the cluster.
type Object struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"` // empty in the release's namespace, or in none
	Name      string `json:"name"`
}

func (o Object) String() string {
	if o.Namespace != "" {
		return fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name)
	}
	return fmt.Sprintf("%s %s", o.Kind, o.Name)
}

// Hook is an object that Helm makes at an event, such as a Job that migrates a database.
type Hook struct {
	Object
	Events   []string `json:"events"`
	Weight   int      `json:"weight,omitempty"`
	Policies []string `json:"policies,omitempty"` // when it is deleted
}

// Revision is one record of a release's history.
type Revision struct {
	Number         int       `json:"number"`
	Status         string    `json:"status"`
	Chart          string    `json:"chart"`
	ChartVersion   string    `json:"chartVersion"`
	AppVersion     string    `json:"appVersion,omitempty"`
	Description    string    `json:"description,omitempty"`
	At             time.Time `json:"at"`
	ManifestSHA256 string    `json:"manifestSha256"`
	Operation      string    `json:"operation,omitempty"` // the OperationID of the operation of ours that made it
	Hooks          []Hook    `json:"hooks,omitempty"`
	Objects        []Object  `json:"objects,omitempty"`

	// Record is the Secret that keeps it, as it was when it was read.
	Record Record `json:"record"`
}

// Record identifies the state of one record.
type Record struct {
	UID             string `json:"uid"`
	ResourceVersion string `json:"resourceVersion"`
}

// Pending reports whether the revision locks the release: an operation works on it, or was killed.
func (r Revision) Pending() bool { return release.Status(r.Status).IsPending() }

// History returns the revisions of the release, the newest first, at most 256. A release that is not
// there is a MissingRelease.
func (r *Release) History(ctx context.Context) ([]Revision, error) {
	heads, err := r.present(ctx)
	if err != nil {
		return nil, err
	}
	var revisions []Revision
	for _, h := range heads {
		rec, err := r.read(ctx, h.number)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			continue // somebody's history was cut meanwhile
		}
		revision, err := rec.revision()
		if err != nil {
			return nil, err
		}
		revisions = append(revisions, revision)
	}
	return revisions, nil
}

// present lists the records, and says so if there are none.
func (r *Release) present(ctx context.Context) ([]head, error) {
	heads, err := r.heads(ctx)
	if err != nil {
		return nil, err
	}
	if len(heads) == 0 || heads[0].status == release.StatusUninstalled || heads[0].status == release.StatusUninstalling {
		return nil, failure.New(failure.MissingRelease, "there is no release %q in the namespace %q", r.name, r.namespace).
			Do("see helm list --all --namespace %s; install it with Helm first", r.namespace)
	}
	return heads, nil
}
