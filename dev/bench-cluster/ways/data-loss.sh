# The guide, Emergency Procedures, "Data Loss". Its scripts are not there: restore-backup.sh stands for the
# command of "Data Recovery", and there is nothing for data-integrity-check.sh.

# Stop all services
kubectl scale deployment --all --replicas=0 -n "$NAMESPACE"

# Restore from backup
gunzip -c "$BACKUP" | \
  kubectl exec -i lang-observatory-postgresql-0 -n "$NAMESPACE" -- \
  psql -U langfuse langfuse

# Restart services
kubectl scale deployment --all --replicas=1 -n "$NAMESPACE"
