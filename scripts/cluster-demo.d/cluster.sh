# shellcheck shell=bash
# Two nodes, the images, the operator by its charts, and the example; sourced by scripts/cluster-demo.

k() { scripts/kube.sh kubectl --kubeconfig "$kubeconfig" "$@"; }
in_production() { k -n production "$@"; }
node_address() { # NODE FAMILY(1: IPv4, 2: IPv6)
  k get node "$1" -o jsonpath="{.status.addresses[?(@.type=='InternalIP')].address}" | cut -d ' ' -f "$2"
}
node_namespace() { echo "mqk$(cat "$(dirname "$kubeconfig")/number")-n${1#node-}"; }
condition() { # KIND/NAME TYPE: its status
  in_production get "$1" -o jsonpath="{.status.conditions[?(@.type=='$2')].status}" 2>/dev/null
}
is_true() { [[ $(condition "$1" "$2") == True ]]; }

# The programs as an image: nothing else when they are static, as the Dockerfile makes them, else the libraries they need.
root_folder() {
  local program library
  mkdir -p "$work/files/usr/local/bin" "$work/files/var/lib/masque-gateway"
  for program in masque-gateway masque-operator; do
    install -s "$DEMO_STATIC/$program" "$work/files/usr/local/bin/"
    for library in $(ldd "$DEMO_STATIC/$program" | grep -oE '/[^ ]+'); do
      [[ -e $work/files$library ]] || install -D "$library" "$work/files$library"
    done
  done
}

cluster_up() {
  part "A Kubernetes of two nodes"
  kubeconfig=$(scripts/kube.sh up all) || { no "the control plane starts"; exit 1; }
  scripts/kube.sh node 1 && scripts/kube.sh node 2 || { no "nodes start"; exit 1; }
  root_folder
  scripts/kube.sh image masque-gateway:demo "$work/files" -- masque-gateway > /dev/null
  scripts/kube.sh image masque-operator:demo "$work/files" --user 65532:65532 -- masque-operator > /dev/null
  k get nodes | show
  check "both are Ready" k wait --for=condition=Ready nodes --all --timeout=30s

  part "helm install"
  h() { scripts/kube.sh helm --kubeconfig "$kubeconfig" "$@"; }
  check "definitions" h install masque-gateway-crds charts/masque-gateway-crds --set compat.connectors=true --set compat.vpcs=true
  local values=(--set image.repository=localhost/masque-operator --set image.tag=demo
    --set gateway.image.repository=localhost/masque-gateway --set gateway.image.tag=demo --set 'rbac.gatewayNamespaces={production,strict}')
  # The chart binds its role in these namespaces: they are there before it.
  k create namespace production > /dev/null && k create namespace strict > /dev/null
  check "operator" h install masque-gateway charts/masque-gateway --namespace masque-system --create-namespace "${values[@]}"
  # These nodes have no cluster DNS, so pods dial the Service's address instead of its name.
  local stream; stream=$(k -n masque-system get service masque-operator -o jsonpath='{.spec.clusterIP}')
  check "upgrade: pods dial https://$stream:9443" h upgrade masque-gateway charts/masque-gateway --namespace masque-system "${values[@]}" --set "streamURL=https://$stream:9443"
  check "two operators are ready" k -n masque-system rollout status deployment/masque-operator --timeout=60s
  k -n masque-system logs -f -l app.kubernetes.io/name=masque-operator --tail=-1 --max-log-requests 9 > "$work/operator.log" 2>&1 &

  part "kubectl apply -k examples/kubernetes/demo"
  check "applied" k apply --server-side --force-conflicts -k examples/kubernetes/demo
  check "gateways are Ready: every pod has acknowledged its Snapshot" until_true 60 is_true vpcip/production Ready
  k get vpcip,cna,vpcap -A | show
  # What is not there yet is said, with what to do.
  check "the attachment says ConnectorKeyMissing: the laptop has no key yet" \
    sh -c "scripts/kube.sh kubectl --kubeconfig '$kubeconfig' -n production get cna laptop-production -o wide | grep -q ConnectorKeyMissing"
}
