package proceduretest

import (
	"time"

	"github.com/upkeep-run/upkeep/activities/kubernetes"
	"github.com/upkeep-run/upkeep/activities/postgres"
	"github.com/upkeep-run/upkeep/internal/rotation"
)

// ofRotations are the activities of RotateSecret, by their names.
func (w *World) ofRotations() map[string]any {
	return map[string]any{
		kubernetes.LookAtSecret: answer(w, kubernetes.LookAtSecret, func(in kubernetes.RotationRequest) rotation.Plan {
			from := in.Entry.Privileged()
			to, _ := in.Entry.Next(from) // one of the configuration's
			plan := rotation.Plan{UID: "s1", Keys: in.Entry.Keys.All(), From: from, To: to, Owners: w.Owners, Left: w.RotationLeft, Consumers: []rotation.Consumer{
				{Ref: rotation.Ref{Kind: "Deployment", Name: "web"}, UID: "u1"}, {Ref: rotation.Ref{Kind: "StatefulSet", Name: "queue"}, UID: "u2"}}}
			if w.RotationDone {
				plan.DoneAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			}
			return plan
		}),
		kubernetes.MakePending:      answer(w, kubernetes.MakePending, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		kubernetes.SwitchSecret:     answer(w, kubernetes.SwitchSecret, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		kubernetes.RestartConsumer:  answer(w, kubernetes.RestartConsumer, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		kubernetes.SealRotation:     answer(w, kubernetes.SealRotation, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		kubernetes.FinishRotation:   answer(w, kubernetes.FinishRotation, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		kubernetes.RestoreSecret:    answer(w, kubernetes.RestoreSecret, func(kubernetes.RotationOrder) string { return "" }),
		kubernetes.RestoreConsumers: answer(w, kubernetes.RestoreConsumers, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		kubernetes.RemovePending:    answer(w, kubernetes.RemovePending, func(kubernetes.RotationOrder) struct{} { return struct{}{} }),
		postgres.LookAtRoles: answer(w, postgres.LookAtRoles, func(postgres.RolesRequest) rotation.RolesPlan {
			return rotation.RolesPlan{Sessions: 3, Makes: true}
		}),
		postgres.PrepareRole: answer(w, postgres.PrepareRole, func(postgres.RoleOrder) struct{} { return struct{}{} }),
		postgres.ProveLogin:  check[postgres.RoleOrder](w, postgres.ProveLogin),
		postgres.AwaitSessions: answer(w, postgres.AwaitSessions, func(postgres.RoleOrder) (s postgres.OldSessions) {
			return next(&w.OldSessions, s)
		}),
		postgres.WithdrawRole:   answer(w, postgres.WithdrawRole, func(in postgres.RoleOrder) int { return map[bool]int{true: 2}[in.End] }),
		postgres.IsWithdrawn:    answer(w, postgres.IsWithdrawn, func(postgres.RoleOrder) bool { return w.Swapped }),
		postgres.ProveWithdrawn: check[postgres.RoleOrder](w, postgres.ProveWithdrawn),
		postgres.RetireRole:     answer(w, postgres.RetireRole, func(postgres.RoleOrder) string { return "" }),
	}
}
