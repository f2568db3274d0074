# shellcheck shell=bash
# The laptop's way in; sourced by scripts/cluster-demo.

connect() { # WHO COMMAND…
  local who=$1; shift
  ns laptop "$DEMO_BIN/datum-connect" --config-dir "$work/$who" --state-dir "$work/$who" "$@"
}
pings() { pings_began=$EPOCHREALTIME; ip netns exec laptop ping -D -i 0.05 "$1" > "$work/$2" 2>&1 & pinging=$!; }
stop_pings() { pings_ended=$EPOCHREALTIME; kill -INT "$pinging" 2>/dev/null; wait "$pinging" 2>/dev/null; }
# Between two replies, since a time in seconds (or the first ping) and until the pings were stopped: silence at the end is a gap too.
longest_gap_ms() { # FILE [FROM]
  awk -v from="${2:-$pings_began}" -v ended="$pings_ended" 'BEGIN { last = from }
    /bytes from/ { at = substr($1, 2, length($1) - 2); if (at > from) { if (at - last > gap) gap = at - last; last = at } }
    END { if (ended - last > gap) gap = ended - last; printf "%.0f", gap * 1000 }' "$1"
}
# Sequence numbers that never came, before the first reply and after the last one too; of the last one the answer may be on its way.
lost() { # FILE
  awk -F 'icmp_seq=' '/bytes from/ { split($2, n, " "); if (n[1] > seen + 1) lost += n[1] - seen - 1; seen = n[1] }
    /packets transmitted/ { split($0, sent, " "); told = 1; if (sent[1] > seen + 1) lost += sent[1] - seen }
    END { print told ? lost + 0 : "all" }' "$1"
}

register() { # WHO ATTACHMENT: its key reaches the cluster; a key is in a status, which a plain apply leaves out
  connect "$1" key --name "$1" --namespace production > "$work/$1.yaml" 2> "$work/$1.key" || return 1
  k apply --server-side --force-conflicts -f "$work/$1.yaml" && k apply --server-side --force-conflicts --subresource=status -f "$work/$1.yaml"
}

# The kubeconfig of a person with no rights but those of the example's role, as it is on a laptop: the API server by its address on
# the nodes' segment.
laptop_kubeconfig() {
  local server local_server port
  in_production create serviceaccount developer && in_production create rolebinding developer --role=masque-attach --serviceaccount=production:developer &&
    in_production create rolebinding developer-self --role=masque-attach-self --serviceaccount=production:developer || return 1
  local_server=$(sed -n 's/.*"server":"https:\/\/\([^"]*\)".*/\1/p' "$kubeconfig") port=${local_server##*:}
  server=$(ip -4 -o addr show dev "$(node_namespace node-1 | cut -d - -f 1)" | awk '{sub("/.*", "", $4); print $4}')
  echo 1 > /proc/sys/net/ipv4/conf/laptop/route_localnet
  nft -f - <<NFT || return 1
table ip laptop {
  chain arriving {
    type nat hook prerouting priority dstnat
    iifname "laptop" ip daddr $server tcp dport $port dnat to 127.0.0.1:$port
  }
}
NFT
  sed "s/$local_server/$server:$port/" "$(scripts/kube.sh kubeconfig --as production/developer)" > "$work/laptop.kubeconfig"
}

attach_laptop() {
  part "datum-connect attach --vpc production-vpc --kubeconfig …"
  check "a person with the rights of examples/kubernetes/small/roles.yaml" laptop_kubeconfig
  connect laptop key --name laptop --namespace production > "$work/laptop.yaml" 2> "$work/laptop.key"
  follow_sessions &
  ip netns exec laptop "$DEMO_BIN/datum-connect" --config-dir "$work/laptop" --state-dir "$work/laptop" attach \
    --vpc production-vpc --kubeconfig "$work/laptop.kubeconfig" --namespace production > "$work/attach.log" 2>&1 &
  up() { ip -n laptop -o addr show | grep -q 10.0.100.; }
  if until_true 15 up; then show < "$work/attach.log"; yes "the laptop is in production-vpc"
  else no "the laptop attaches"; show < "$work/attach.log"; in_production describe cna | tail -n 30 | show; exit 1; fi
  gateway=$(in_production get vpcip production -o jsonpath='{.status.endpoints[0].uri}')
  in_production get configmap production-masque-gateway-ca -o jsonpath='{.data.ca\.crt}' > "$work/ca.crt"
  # Said to the person, too: with the Static fabric this is somebody's duty (docs/kubernetes/concepts.md).
  check "the fabric leads to the pod that serves it (a loop here plays the part of an announcing fabric)" until_true 10 test -s "$work/followed"

  part "Into the VPC, both families"
  capture_underlay
  check "ping 10.0.1.10" ns laptop ping -c3 -i0.2 -W2 10.0.1.10
  check "ping fd20:10:0:1::10" ns laptop ping -c3 -i0.2 -W2 fd20:10:0:1::10
  check "HTTP over IPv4" sh -c "ip netns exec laptop curl -fsS --max-time 5 http://10.0.1.10/ | grep -q 'hello from the VPC'"
  check "HTTP over IPv6" sh -c "ip netns exec laptop curl -fsS --max-time 5 'http://[fd20:10:0:1::10]/' | grep -q 'hello from the VPC'"
  check "TCP 8080 is denied" sh -c "! ip netns exec laptop curl -sS --max-time 1 http://10.0.1.10:8080/"
  denied_is_counted() { (( $(drops policy_not_allowed) > 0 )); }
  check "and a gateway counts why: policy_not_allowed" until_true 3 denied_is_counted
  local sid
  for sid in d001 e001; do grep -m1 "> $BLOCK:1:$sid:: " "$work/underlay" | show; done
  check "on the wire: outer IPv6 to the SID, next header 4, no SRH" grep -q "> $BLOCK:1:d001:: next-header 4 .* | inner IPv4" "$work/underlay"
  check "and next header 41 for IPv6" grep -q "> $BLOCK:1:e001:: next-header 41 .* | inner IPv6" "$work/underlay"

  part "What the cluster says"
  check "phase Connected" until_true 10 sh -c "scripts/kube.sh kubectl --kubeconfig '$kubeconfig' -n production get cna laptop-production -o jsonpath='{.status.phase}' | grep -qx Connected"
  k get vpcip,cna,vpcap -A | show
  local address; address=$(in_production get cna laptop-production -o jsonpath='{.status.assignedIP}')
  check "assignedIP $address is the address that the laptop got" sh -c "ip -n laptop -o addr show | grep -q ' $address/'"
}

drops() { # REASON: in all gateways
  local address
  for address in $(in_production get pods -l networking.datumapis.com/ingress-point=production -o jsonpath='{.items[*].status.podIP}'); do
    curl -fsS --max-time 2 "http://$address:9464/metrics"
  done | awk -v r="reason=\"$1\"" 'index($0, "masque_gateway_drops_total") && index($0, r) {n += $2} END {print n + 0}'
}
