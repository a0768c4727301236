{{/* The release's name, once: `pgoutbox`, not `pgoutbox-pgoutbox`. */}}
{{- define "pgoutbox.name" -}}
{{- $name := printf "%s-pgoutbox" .Release.Name }}
{{- if contains "pgoutbox" .Release.Name }}{{ $name = .Release.Name }}{{ end }}
{{- $name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "pgoutbox.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The relays, each with all that it has: one without a name where none is set. */}}
{{- define "pgoutbox.relays" -}}
{{- $relays := list }}
{{- range .Values.relays | default (list dict) }}
{{- $name := include "pgoutbox.name" $ }}
{{- if .name }}{{ $name = printf "%s-%s" $name .name }}{{ end }}
{{- $relays = append $relays (dict "name" $name "slot" .slot "publication" .publication
      "config" (.config | default $.Values.config) "secret" (.existingSecret | default $.Values.existingSecret)
      "shards" (.shards | default $.Values.shards | int)
      "owner" (.ownerSecret | default $.Values.init.existingSecret)) }}
{{- end }}
{{- toJson $relays }}
{{- end }}
