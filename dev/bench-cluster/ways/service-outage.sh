# The guide, Emergency Procedures, "Service Outage". Its health-check.sh is not there; the commands beside
# which it stands under "System Health Check" are typed instead.

# Quick health check
kubectl get pods -n "$NAMESPACE"
kubectl get services -n "$NAMESPACE"
kubectl get ingress -n "$NAMESPACE"

# Check all components
kubectl get all -n "$NAMESPACE"

# Review recent events
kubectl get events -n "$NAMESPACE" --sort-by='.lastTimestamp' | tail -20

# Emergency rollback
helm rollback "$RELEASE" -n "$NAMESPACE"
