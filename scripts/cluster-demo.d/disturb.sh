# shellcheck shell=bash
# What happens in a cluster's life while a laptop is attached; sourced by scripts/cluster-demo.

# A second machine that attaches anew again and again, as people do at any moment.
attach_again() { # FILE: a line for each attempt
  while [[ -e $work/attaching ]]; do
    local began=$EPOCHREALTIME
    if timeout 20 ip netns exec laptop "$DEMO_BIN/datum-connect" --config-dir "$work/phone" --state-dir "$work/phone" attach --vpc production-vpc \
      --gateway "$gateway" --ca "$work/ca.crt" --no-tun --background > "$work/phone.log" 2>&1; then
      echo "ok $began $EPOCHREALTIME" >> "$work/$1"
    else
      { echo "failed $began $EPOCHREALTIME"; sed 's/^/# /' "$work/phone.log"; } >> "$work/$1"
    fi
    connect phone detach > /dev/null 2>&1
  done
}
attaching() { : > "$work/$1"; touch "$work/attaching"; attach_again "$1" & attacher=$!; }
stop_attaching() { rm -f "$work/attaching"; wait "$attacher" 2>/dev/null; }
none_failed() { (( $(attempts "$1" ok) > 0 && $(attempts "$1" failed) == 0 )); }
attempts() { grep -c "^$2" "$work/$1"; }
longest_ms() { awk '/^ok/ {t = $3 - $2; if (t > most) most = t} END {printf "%.0f", most * 1000}' "$work/$1"; }
one_attach() { touch "$work/attaching"; : > "$work/one"; attach_again one & local it=$!; until_true 20 test -s "$work/one"; rm -f "$work/attaching"; wait $it 2>/dev/null; ! grep -q failed "$work/one"; }
replicas_ready() { [[ $(in_production get vpcip production -o jsonpath='{.status.readyReplicas}') == "$1" ]]; }
deployment=deployment/production-masque-gateway

disturb() {
  second_machine
  roll_out
  kill_pod
  without_operators
  without_api_server
  refused_pods
  uninstall
}

second_machine() {
  part "Three replicas, and a phone that attaches again and again"
  k apply --server-side -f - > /dev/null <<'YAML'
apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata: {name: phone-production, namespace: production}
spec: {connectorRef: {name: phone}, vpcRef: {name: production-vpc}}
YAML
  check "the phone's key is in the cluster" register phone
  check "kubectl scale vpcip/production --replicas=3" in_production scale vpcip/production --replicas=3
  check "three are ready" until_true 60 replicas_ready 3
  check "the phone's attachment is programmed on all" until_true 20 is_true cna/phone-production Programmed
}

roll_out() {
  part "Rollout of all three"
  pings 10.0.1.10 rollout.ping
  attaching rollout.attach
  sleep 1
  check "kubectl rollout restart $deployment" in_production rollout restart $deployment
  check "it ends" in_production rollout status $deployment --timeout=180s
  sleep 2
  stop_attaching; stop_pings
  check "$(attempts rollout.attach ok) attaches meanwhile, none failed; the longest took $(longest_ms rollout.attach) ms" none_failed rollout.attach
  (( $(attempts rollout.attach failed) == 0 )) || grep -v '^ok' "$work/rollout.attach" | head -n 12 | show
  check "the laptop's longest gap: $(longest_gap_ms "$work/rollout.ping") ms, $(lost "$work/rollout.ping") of $(grep -c 'bytes from' "$work/rollout.ping") pings lost" \
    test "$(longest_gap_ms "$work/rollout.ping")" -lt 5000
}

kill_pod() {
  part "The pod that serves the laptop dies"
  local pod began; pod=$(tail -n 1 "$work/followed" | cut -d ' ' -f 2)
  pings 10.0.1.10 kill.ping
  sleep 1
  attaching kill.attach
  began=$EPOCHREALTIME
  check "kubectl delete pod $pod --grace-period=0 --force" in_production delete pod "$pod" --grace-period=0 --force
  sleep 8
  stop_attaching; stop_pings
  check "a new attach took at most $(longest_ms kill.attach) ms (goal 3000), $(attempts kill.attach failed) failed" none_failed kill.attach
  check "the laptop's longest gap: $(longest_gap_ms "$work/kill.ping" "$began") ms (goal 3000)" test "$(longest_gap_ms "$work/kill.ping" "$began")" -lt 8000
  check "three are ready again" until_true 60 replicas_ready 3
}

without_operators() {
  part "No operator"
  pings 10.0.1.10 operators.ping
  check "scaled to 0" sh -c "scripts/kube.sh kubectl --kubeconfig '$kubeconfig' -n masque-system scale deployment/masque-operator --replicas=0 &&
    scripts/kube.sh kubectl --kubeconfig '$kubeconfig' -n masque-system wait --for=delete pod -l app.kubernetes.io/name=masque-operator --timeout=60s"
  check "the phone attaches" one_attach
  check "operators are back" sh -c "scripts/kube.sh kubectl --kubeconfig '$kubeconfig' -n masque-system scale deployment/masque-operator --replicas=2 &&
    scripts/kube.sh kubectl --kubeconfig '$kubeconfig' -n masque-system rollout status deployment/masque-operator --timeout=60s"
  check "status is true again" until_true 40 is_true vpcip/production Ready
  stop_pings
  check "the laptop noticed nothing: $(lost "$work/operators.ping") of $(grep -c 'bytes from' "$work/operators.ping") pings lost" test "$(lost "$work/operators.ping")" = 0
}

without_api_server() {
  part "No API server"
  pings 10.0.1.10 api.ping
  scripts/kube.sh stop kube-apiserver
  check "the phone attaches" one_attach
  check "it is back" scripts/kube.sh up all
  in_production annotate vpcap web demo=again --overwrite > /dev/null
  check "status is true again" until_true 60 is_true vpcip/production Ready
  connected() { [[ $(in_production get cna laptop-production -o jsonpath='{.status.phase}') == Connected ]]; }
  check "and says Connected of the laptop" until_true 40 connected
  stop_pings
  check "the laptop noticed nothing: $(lost "$work/api.ping") of $(grep -c 'bytes from' "$work/api.ping") pings lost" test "$(lost "$work/api.ping")" = 0
}

refused_pods() {
  part "A namespace that forbids NET_ADMIN"
  k label namespace strict pod-security.kubernetes.io/enforce=baseline > /dev/null
  sed 's/namespace: production/namespace: strict/; s/fd00:0:1:3:/fd00:0:1:4:/; s/fd00:0:1:1:/fd00:0:1:2:/' examples/kubernetes/small/ingress-point.yaml | k apply --server-side -f - > /dev/null
  forbidden() { k -n strict get vpcip production -o jsonpath="{.status.conditions[?(@.type=='Ready')].reason}" | grep -qx PodSecurityForbidden; }
  check "its ingress point says PodSecurityForbidden" until_true 30 forbidden
  k -n strict get vpcip production -o jsonpath="{.status.conditions[?(@.type=='Ready')].message}" | fold -s -w 120 | show; echo
  k delete namespace strict --wait=false > /dev/null
}

uninstall() {
  part "Everything goes"
  connect laptop detach > /dev/null 2>&1
  check "kubectl delete -k examples/kubernetes/demo" k delete -k examples/kubernetes/demo --timeout=60s
  check "helm uninstall" h uninstall masque-gateway --namespace masque-system --wait
  check "helm uninstall of the definitions keeps them, and what people made" h uninstall masque-gateway-crds
  # An API server that does not answer is no proof that nothing is left.
  left() {
    k get deployments,services,secrets,configmaps,poddisruptionbudgets,networkpolicies,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings \
      -A -o name --ignore-not-found > "$work/left" || return 1
    grep masque "$work/left" || true
  }
  # The operator's CA stays: whoever installs it again goes on with the same one.
  nothing_left() { left > "$work/left.masque" && cat "$work/left.masque" && [[ $(cat "$work/left.masque") == secret/masque-operator-ca ]]; }
  check "nothing is left but the operator's CA" nothing_left
}
