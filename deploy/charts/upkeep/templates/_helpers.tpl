{{- define "upkeep.name" -}}
{{- printf "%s-%s" (.root.Release.Name | trunc 45 | trimSuffix "-") .capability -}}
{{- end }}

{{- define "upkeep.selector" -}}
app.kubernetes.io/name: upkeep
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .capability }}
{{- end }}

{{- define "upkeep.labels" -}}
{{ include "upkeep.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "upkeep.configMap" -}}
{{- .Values.existingConfigMap | default (printf "%s-config" .Release.Name) -}}
{{- end }}

{{/* How to reach Temporal. */}}
{{- define "upkeep.temporal" -}}
- {name: TEMPORAL_ADDRESS, value: {{ required "temporal.address is missing: host:port of Temporal's frontend" .Values.temporal.address | quote }}}
- {name: TEMPORAL_NAMESPACE, value: {{ .Values.temporal.namespace | quote }}}
{{- with .Values.temporal.tls }}
{{- if .secretName }}
- {name: TEMPORAL_TLS, value: "true"}
- {name: TEMPORAL_TLS_CLIENT_CERT_PATH, value: /etc/temporal/tls/tls.crt}
- {name: TEMPORAL_TLS_CLIENT_KEY_PATH, value: /etc/temporal/tls/tls.key}
- {name: TEMPORAL_TLS_SERVER_CA_CERT_PATH, value: /etc/temporal/tls/ca.crt}
{{- end }}
{{- if .serverName }}
- {name: TEMPORAL_TLS_SERVER_NAME, value: {{ .serverName | quote }}}
{{- end }}
{{- end }}
{{- with .Values.temporal.apiKey }}
{{- if .secretName }}
- name: TEMPORAL_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .secretName }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* A role, and its binding to the account of a capability. */}}
{{- define "upkeep.role" }}
{{- $root := .ctx.root }}
{{- $account := include "upkeep.name" .ctx }}
{{- $name := eq .kind "Role" | ternary $account (printf "%s-%s" $root.Release.Namespace $account) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "upkeep.labels" .ctx | nindent 4 }}
rules: {{- toYaml .rules | nindent 0 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "upkeep.labels" .ctx | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ .kind }}, name: {{ $name }}}
subjects: [{kind: ServiceAccount, name: {{ $account }}, namespace: {{ $root.Release.Namespace }}}]
{{- end }}

{{/* Fails on rules that give more than can be meant. */}}
{{- define "upkeep.checkRules" -}}
{{- range .rules }}
{{- if or (has "*" (.verbs | default list)) (has "*" (.resources | default list)) (has "*" (.apiGroups | default list)) }}
{{- fail (printf "rbac.rules of %s has a wildcard; name the groups, resources and verbs" $.namespace) }}
{{- end }}
{{- if has "nodes/proxy" (.resources | default list) }}
{{- fail (printf "rbac.rules of %s asks for nodes/proxy, which is every right on a node" $.namespace) }}
{{- end }}
{{- end }}
{{- end }}
