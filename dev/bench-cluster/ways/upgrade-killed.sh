# helm is killed as soon as the new image is applied, and called again, as by a job that is tried again.
upgrade() { exec helm upgrade "$RELEASE" "$CHART" -n "$NAMESPACE" --values "$VALUES" --set "$SET" --atomic --timeout "$TIMEOUT"; }
upgrade &
until kubectl get deployment "$RELEASE-langfuse" -n "$NAMESPACE" -o jsonpath='{..image}' | grep -q "$BAD"; do sleep 0.1; done
kill -KILL $!
wait
if [ -n "${ROLLBACK:-}" ]; then
  helm rollback "$RELEASE" -n "$NAMESPACE"
else
  (upgrade)
fi
