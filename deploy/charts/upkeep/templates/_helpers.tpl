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

{{- define "upkeep.image" -}}
{{- $of := .Values.image -}}
{{- printf "%s:%s" $of.repository ($of.tag | default .Chart.AppVersion) -}}{{- with $of.digest }}@{{ . }}{{ end -}}
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

{{/* Fails on a namespace that is the cluster's own, or has been before in the same list. */}}
{{- define "upkeep.checkNamespaces" -}}
{{- $what := .what }}
{{- $seen := dict }}
{{- range .list }}
{{- if has .namespace (list "kube-system" "kube-public" "kube-node-lease") }}
{{- fail (printf "%s names %s, one of the cluster's own namespaces" $what .namespace) }}
{{- end }}
{{- if hasKey $seen .namespace }}
{{- fail (printf "%s names the namespace %s twice; join what it says of it" $what .namespace) }}
{{- end }}
{{- $_ := set $seen .namespace true }}
{{- end }}
{{- end }}

{{/* Fails on rules that give more than can be meant. */}}
{{- define "upkeep.checkRules" -}}
{{- range .rules }}
{{- if contains "*" (join " " (concat (.verbs | default list) (.resources | default list) (.apiGroups | default list))) }}
{{- fail (printf "rbac.rules of %s has a wildcard; name the groups, resources and verbs" $.namespace) }}
{{- end }}
{{- if has "nodes/proxy" (.resources | default list) }}
{{- fail (printf "rbac.rules of %s asks for nodes/proxy, which is every right on a node" $.namespace) }}
{{- end }}
{{- if has "impersonate" (.verbs | default list) }}
{{- fail (printf "rbac.rules of %s asks for impersonate, which is every right of somebody else" $.namespace) }}
{{- end }}
{{- end }}
{{- end }}
