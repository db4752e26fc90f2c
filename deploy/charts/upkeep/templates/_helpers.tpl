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
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | trimAll "-_." | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "upkeep.configMap" -}}
{{- .Values.existingConfigMap | default (printf "%s-config" .Release.Name) -}}
{{- end }}

{{/* The image of a capability: its own tag and digest, if it has one of them. */}}
{{- define "upkeep.image" -}}
{{- $of := .root.Values.image -}}
{{- $own := (index .root.Values .capability).image | default dict -}}
{{- $which := ternary $own $of (not (and (empty $own.tag) (empty $own.digest))) -}}
{{- printf "%s:%s" $of.repository ($which.tag | default $of.tag | default .root.Chart.AppVersion) -}}{{- with $which.digest }}@{{ . }}{{ end -}}
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

{{/* Fails on what would be found wrong only later, by a pod that does not start or a run that waits. */}}
{{- define "upkeep.check" -}}
{{- if and .Values.store.claim .Values.store.emptyDir }}
{{- fail "store.claim and store.emptyDir are both set; say one" }}
{{- end }}
{{- if .Values.config }}
{{- $config := fromYaml .Values.config }}
{{- if hasKey $config "Error" }}
{{- fail (printf "config is no YAML: %s" $config.Error) }}
{{- end }}
{{- if and (hasPrefix "file:///var/lib/upkeep" (toString $config.store)) (not .Values.store.claim) (not .Values.store.emptyDir) }}
{{- fail "config has its store in /var/lib/upkeep, where nothing is mounted; set store.claim, or store.emptyDir to try it out" }}
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

{{/* Fails on rules that give more than can be meant, of a namespace or, without one, of the cluster. */}}
{{- define "upkeep.checkRules" -}}
{{- $of := .namespace | default "the cluster" }}
{{- if has $of (list "kube-system" "kube-public" "kube-node-lease") }}
{{- fail (printf "rights are asked for in %s, one of the cluster's own namespaces" $of) }}
{{- end }}
{{- range .rules }}
{{- if contains "*" (join " " (concat (.verbs | default list) (.resources | default list) (.apiGroups | default list))) }}
{{- fail (printf "the rules of %s have a wildcard; name the groups, resources and verbs" $of) }}
{{- end }}
{{- if has "nodes/proxy" (.resources | default list) }}
{{- fail (printf "the rules of %s ask for nodes/proxy, which is every right on a node" $of) }}
{{- end }}
{{- if has "impersonate" (.verbs | default list) }}
{{- fail (printf "the rules of %s ask for impersonate, which is every right of somebody else" $of) }}
{{- end }}
{{- end }}
{{- end }}
