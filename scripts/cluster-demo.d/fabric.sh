# shellcheck shell=bash
# What is outside the cluster; sourced by scripts/cluster-demo.
#
#   laptop 198.51.100.10 ── this namespace ── bridge ── node-1, node-2: gateway pods
#                              │ fabric fd00:0:0:a::/64
#                            vpc-node ── work 10.0.1.10  fd20:10:0:1::10
#
# This namespace routes between them. A locator's packets go to the node that owns it: fd00:0:1:1::/64 to vpc-node, fd00:0:1:3::/64
# to a gateway pod.

fabric_up() {
  part "A laptop, and a VPC behind SRv6"
  echo 1 > /proc/sys/net/ipv4/ip_forward
  echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
  host laptop vpc-node work
  forwards vpc-node

  ip link add laptop type veth peer name eth0 netns laptop
  ip link set laptop up && ip -n laptop link set eth0 up
  ip addr add 198.51.100.1/24 dev laptop
  ip -n laptop addr add 198.51.100.10/24 dev eth0
  ip -n laptop route add default via 198.51.100.1

  ip link add fabric type veth peer name underlay netns vpc-node
  ip link set fabric up && ip -n vpc-node link set underlay up
  ip -6 addr add "$UNDERLAY::254/64" dev fabric nodad
  ip -n vpc-node -6 addr add "$UNDERLAY::1/64" dev underlay nodad
  ip -n vpc-node -6 addr add "$BLOCK:1::1/128" dev lo nodad
  ns vpc-node ip sr tunsrc set "$BLOCK:1::1"
  ip -n vpc-node -6 route add "$BLOCK:3::/64" via "$UNDERLAY::254" dev underlay
  ip -6 route add "$BLOCK:1::/64" via "$UNDERLAY::1" dev fabric
  workload vpc-node 1 work 1 10 1

  mkdir -p "$work/www"; echo "hello from the VPC" > "$work/www/index.html"
  local port
  for port in 80 8080; do
    ip netns exec work python3 -m http.server --bind :: --directory "$work/www" $port > /dev/null 2>&1 &
  done
  check "the workload's node answers over the fabric" ping -6 -c1 -W2 "$BLOCK:1::1"
}

# With the Static fabric nobody announces where a client is: every replica has the same local SID. What a fabric with an announcing
# provider does by itself, this loop does by status: packets for the SID go to the pod that serves the laptop.
follow_sessions() {
  local line pod former=''
  while :; do
    k -n production get cna laptop-production -w -o jsonpath='{range .status.sessions[*]}{.since} {.gateway}{";"}{end}{"\n"}' 2>/dev/null |
      while read -r line; do
        pod=$(tr ';' '\n' <<< "$line" | sort | tail -n 1 | cut -d ' ' -f 2)
        if [[ $pod && $pod != "$former" ]] && lead_to "$pod"; then former=$pod; fi
      done
    sleep 0.3
  done
}

lead_to() { # POD: the gateway's locator leads there
  local node address
  read -r node address < <(k -n production get pod "$1" -o jsonpath='{.spec.nodeName} {.status.podIPs[1].ip}{"\n"}' 2>/dev/null) && [[ $address ]] || return 1
  ip -6 route replace "$BLOCK:3::/64" via "$(node_address "$node" 2)"
  ip -n "$(node_namespace "$node")" -6 route replace "$BLOCK:3::/64" via "$address"
  echo "$(date +%s.%N) $1" >> "$work/followed"
}

# What the fabric brings to the VPC's node: every outer IPv6 header, a line each.
capture_underlay() {
  ip netns exec vpc-node python3 scripts/capture.py underlay > "$work/underlay" 2> "$work/capture.err" &
}
