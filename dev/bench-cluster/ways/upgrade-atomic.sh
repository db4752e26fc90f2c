# What the field does instead: helm rolls back by itself what does not become ready. What it calls good is
# not rolled back, and is a failure here.
helm upgrade "$RELEASE" "$CHART" -n "$NAMESPACE" --values "$VALUES" --set "$SET" --atomic --timeout "$TIMEOUT" && exit 1
exit 0
