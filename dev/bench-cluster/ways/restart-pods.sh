# The guide, Recovery Procedures, "Restart failed pods": by somebody who knows that this is what helps.
kubectl delete pod -l app.kubernetes.io/name=langfuse -n "$NAMESPACE"
