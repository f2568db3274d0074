{{- define "masque.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "masque.serviceAccount" -}}
{{- .Values.serviceAccount.name | default "masque-operator" }}
{{- end }}

{{- define "masque.selector" -}}
app.kubernetes.io/name: masque-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "masque.labels" -}}
{{ include "masque.selector" . }}
app.kubernetes.io/part-of: masque-gateway
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* image: (list image appVersion) */}}
{{- define "masque.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1) }}
{{- end }}
{{- end }}

{{- /* What it reads and reports about its own kinds. */}}
{{- define "masque.rules.read" -}}
- apiGroups: [networking.datumapis.com]
  resources: [connectorattachments, connectors, vpcaccesspolicies, vpcingresspoints]
  verbs: [get, list, watch]
- apiGroups: [networking.datumapis.com]
  resources: [connectorattachments/status, vpcaccesspolicies/status, vpcingresspoints/status]
  verbs: [patch]
# Owner references that block deletion need this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [networking.datumapis.com]
  resources: [vpcingresspoints/finalizers]
  verbs: [update]
{{- range .Values.rbac.vpcResources }}
- apiGroups: {{ toJson .apiGroups }}
  resources: {{ toJson .resources }}
  verbs: [get, list, watch]
{{- end }}
- apiGroups: [""]
  resources: [configmaps, pods, serviceaccounts, services]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* What it makes for an ingress point. */}}
{{- define "masque.rules.gateways" -}}
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [create, delete, patch]
# The ledger of addresses: a write that names the version it was decided on.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, delete, patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [create, delete, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, delete, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, delete, patch]
# Certificates: those that it issues, and those that listeners name. Names are not known beforehand, and roles know no
# prefixes; there is no list and no watch.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, get, patch]
{{- end }}

{{- /* What is cluster-scoped. */}}
{{- define "masque.rules.cluster" -}}
# Is the pod that opens a stream one of ours?
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- if .Values.rbac.nodes }}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{- end }}
{{- end }}
