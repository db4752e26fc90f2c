{{/* The labels of a component: name is that of the software, as in the maintenance guide. */}}
{{- define "labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: lang-observatory
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* What selects a component's pods: it never changes. */}}
{{- define "selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* How the service and its migration reach the database. */}}
{{- define "database-env" -}}
- name: DATABASE_URL
  value: postgres://{{ .Values.postgresql.username }}@{{ .Release.Name }}-postgresql:5432/{{ .Values.postgresql.database }}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: langfuse-postgresql, key: password}}
{{- end }}
