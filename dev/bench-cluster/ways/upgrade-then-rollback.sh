# An upgrade that is waited for, and the guide's "Rollback deployment" when it fails; how to upgrade, the
# guide does not say. What helm itself calls good is not rolled back, and is a failure here.
helm upgrade "$RELEASE" "$CHART" -n "$NAMESPACE" --values "$VALUES" --set "$SET" --wait --timeout "$TIMEOUT" && exit 1

# Rollback deployment
helm rollback "$RELEASE" -n "$NAMESPACE"
