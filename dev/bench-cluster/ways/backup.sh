# The guide, Backup Procedures, "Manual backup"; with pipefail, so that the losses have something to restore.
set -euo pipefail
kubectl exec lang-observatory-postgresql-0 -n "$NAMESPACE" -- \
  pg_dump -U langfuse langfuse | gzip >"$BACKUP"
