// Package procedures lists the procedures that there are, for commands and documentation.
package procedures

import (
	"reflect"
	"sort"
	"strings"

	"github.com/upkeep-run/upkeep/api/backupdatabase"
	"github.com/upkeep-run/upkeep/api/containincident"
	"github.com/upkeep-run/upkeep/api/drillrecovery"
	"github.com/upkeep-run/upkeep/api/followpullrequest"
	"github.com/upkeep-run/upkeep/api/prunebackups"
	"github.com/upkeep-run/upkeep/api/recoverdata"
	"github.com/upkeep-run/upkeep/api/recoverservice"
	"github.com/upkeep-run/upkeep/api/restoredatabase"
	"github.com/upkeep-run/upkeep/api/reviewaccess"
	"github.com/upkeep-run/upkeep/api/rolloutrelease"
	"github.com/upkeep-run/upkeep/api/rotatesecret"
	"github.com/upkeep-run/upkeep/api/updatedependencies"
	"github.com/upkeep-run/upkeep/api/validatenetwork"
	"github.com/upkeep-run/upkeep/api/verifybackup"
)

// Procedure is one kind of maintenance.
type Procedure struct {
	Name    string  `json:"name"`
	Purpose string  `json:"purpose"`
	Input   []Field `json:"input"`

	input func() any
}

// Field is a field of a procedure's input.
type Field struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Help string `json:"help"`
}

// help says what each field is for, by its name, or by procedure and name where it differs.
var help = map[string]string{
	"target":               "the target in upkeep.yaml; may be left out when there is only one",
	"dryRun":               "say what would be done and change nothing",
	"backup":               "a backup's id, or latest (the default)",
	"DrillRecovery.backup": "a backup's id, or latest; a fresh backup is taken when left out",
	"grade":                "how deep to look: stored, decoded or restored (the default, and the only one that proves)",
	"mode":                 "beside (the default) or replace: put the copy in the live database's place, after an approval",
	"confirm":              "with mode replace: the name of the live database, written out",
	"chart":                "an absolute path on the worker, or oci://host/repository; as in the target's rollout when left out",
	"version":              "the chart's version; as in the target's rollout when left out",
	"set":                  "values by their dotted paths, such as {\"image.tag\": \"1.2\"}; no secrets",
	"merged":               "the merged pull request that is rolled out, as owner/name#number; not for people",
	"skipStaging":          "leave the staging target out",
	"override":             "why a release that migrates goes without a drilled backup; approved with the plan",
	"RecoverData.backup":   "a backup's id, latest, or proven (the default): the newest whose comparison was PASS",
	"RecoverData.confirm":  "the name of the live database that is replaced, written out",
	"clients":              "the workloads that use the database, in the order in which they start, as Kind/name (Deployment, StatefulSet, ReplicaSet, DaemonSet, CronJob, Job), with commas between; those of the configuration, or found by their sessions, when left out",
	"baseline":             "compare, or propose: ask a person to accept the present state as the new one; when left out, propose where there is none yet",
	"upTo":                 "the last step that may be taken: restart, rollout, recreate, clear or rollback (the default)",
	"repository":           "one of the target's repositories, as owner/name; UpdateDependencies takes all of them when it is left out",
	"type":                 "security, patch, minor, major or digest; all of them when left out",
	"branch":               "the branch of Upkeep's that is followed",
	"last":                 "what an earlier part of the run knew; not for people",
	"wait":                 "minutes that each step is given to show that it helped; 5 when left out",
	"reason":               "what is suspected; always needed",
	"severity":             "low, medium, high (the default) or critical",
	"event":                "the id of what was reported: however often it comes, it is one case, and one run",
	"pods":                 "suspect pods by name, or as namespace/name, with commas between",
	"workload":             "a suspect workload with all its pods, as Kind/name (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob, ReplicationController)",
	"node":                 "a suspect node: its pods in the target's namespaces, and nothing new is placed on it",
	"serviceAccount":       "a suspect service account, with all pods that use it",
	"image":                "a suspect image, by its name or digest, with all pods that run it",
	"access":               "show (the default) what the suspects' service accounts are granted, or withdraw it: they are taken out of the bindings that name them",
	"giveAccessBack":       "give it back also when the pods are deleted",
	"recreateAccount":      "make the suspects' service accounts anew once the pods are deleted: all their tokens end, also those of other pods",
	"rotate":               "the target's secrets that are rotated once the pods are deleted, by their names, with commas between",
	"secret":               "one of the target's secrets in upkeep.yaml; the only one when left out. A key that is none of them, as Secret/key, is refused with the reason",
	"RotateSecret.wait":    "minutes that the restarts, and then the old sessions, are each given; 5 when left out",
	"endSessions":          "end sessions of the old role that stay for longer; a person is asked when it is left out",
	"database":             "the name of the new database, which must not exist; generated when left out",
}

// All lists the procedures by name.
func All() []Procedure {
	all := []Procedure{
		describe(backupdatabase.WorkflowType, backupdatabase.Purpose, func() any { return new(backupdatabase.Input) }),
		describe(containincident.WorkflowType, containincident.Purpose, func() any { return new(containincident.Input) }),
		describe(drillrecovery.WorkflowType, drillrecovery.Purpose, func() any { return new(drillrecovery.Input) }),
		describe(followpullrequest.WorkflowType, followpullrequest.Purpose, func() any { return new(followpullrequest.Input) }),
		describe(prunebackups.WorkflowType, prunebackups.Purpose, func() any { return new(prunebackups.Input) }),
		describe(recoverdata.WorkflowType, recoverdata.Purpose, func() any { return new(recoverdata.Input) }),
		describe(recoverservice.WorkflowType, recoverservice.Purpose, func() any { return new(recoverservice.Input) }),
		describe(restoredatabase.WorkflowType, restoredatabase.Purpose, func() any { return new(restoredatabase.Input) }),
		describe(reviewaccess.WorkflowType, reviewaccess.Purpose, func() any { return new(reviewaccess.Input) }),
		describe(rolloutrelease.WorkflowType, rolloutrelease.Purpose, func() any { return new(rolloutrelease.Input) }),
		describe(rotatesecret.WorkflowType, rotatesecret.Purpose, func() any { return new(rotatesecret.Input) }),
		describe(updatedependencies.WorkflowType, updatedependencies.Purpose, func() any { return new(updatedependencies.Input) }),
		describe(validatenetwork.WorkflowType, validatenetwork.Purpose, func() any { return new(validatenetwork.Input) }),
		describe(verifybackup.WorkflowType, verifybackup.Purpose, func() any { return new(verifybackup.Input) }),
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// NewInput returns a pointer to an empty input of the procedure.
func (p Procedure) NewInput() any { return p.input() }

func describe(name, purpose string, input func() any) Procedure {
	p := Procedure{Name: name, Purpose: purpose, input: input}
	p.collect(reflect.TypeOf(input()).Elem())
	return p
}

func (p *Procedure) collect(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			p.collect(f.Type)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		kind := "string"
		if f.Type.Kind() == reflect.Bool {
			kind = "true or false"
		}
		if f.Type.Kind() == reflect.Map || f.Type.Kind() == reflect.Pointer {
			kind = "object"
		}
		if f.Type.Kind() == reflect.Int {
			kind = "whole number"
		}
		text, ok := help[p.Name+"."+name]
		if !ok {
			text = help[name]
		}
		p.Input = append(p.Input, Field{Name: name, Type: kind, Help: text})
	}
}
