# A small fabric of network namespaces; source it inside `unshare -n -m` (see scripts/demo).
#
#   laptop 198.51.100.10 ─┐                                        ┌─ node-1 ── work-1p 10.0.1.10  production
#                         ├─ router ─ gateway ── fd00:0:0:a::/64 ──┤         └─ work-1s 10.0.1.10  staging
#   phone  198.51.101.10 ─┘         192.0.2.1                      └─ node-2 ── work-2p 10.0.2.10  production
#
# Numbers as in examples/standalone/README.md. Each node takes packets out of SRv6 with End.DT6 (IPv6, a table a VPC) and
# End.DX4 (IPv4, a next hop a VPC), and sends replies with encap.red: one outer IPv6 header, no SRH.

BLOCK=fd00:0:1
UNDERLAY=fd00:0:0:a
LAB_MTU=${LAB_MTU:-1500}

ns() { ip netns exec "$@"; }

host() { # NAME…: namespaces with IPv6 at once usable and SRv6 on
  local name
  for name in "$@"; do
    ip netns add "$name"
    ip -n "$name" link set lo up
    ns "$name" sh -c '
      for f in all default lo; do
        echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad
        echo 0 > /proc/sys/net/ipv6/conf/$f/accept_ra
        echo 1 > /proc/sys/net/ipv6/conf/$f/seg6_enabled
        echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter
      done' 2>/dev/null
  done
}

forwards() { # NAME…: routers
  local name
  for name in "$@"; do
    ns "$name" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
  done
}

wire() { # NAME LINK NAME LINK [MTU]
  ip link add "$2" netns "$1" mtu "${5:-$LAB_MTU}" type veth peer name "$4" netns "$3" mtu "${5:-$LAB_MTU}"
  ip -n "$1" link set "$2" up
  ip -n "$3" link set "$4" up
  ns "$1" sh -c "echo 1 > /proc/sys/net/ipv6/conf/$2/seg6_enabled; echo 0 > /proc/sys/net/ipv4/conf/$2/rp_filter"
  ns "$3" sh -c "echo 1 > /proc/sys/net/ipv6/conf/$4/seg6_enabled; echo 0 > /proc/sys/net/ipv4/conf/$4/rp_filter"
}

lab_up() {
  host laptop phone router gateway switch node-1 node-2 work-1p work-1s work-2p
  forwards router node-1 node-2

  # Access: two clients behind a router.
  wire laptop eth0 router laptop
  wire phone eth0 router phone
  wire router gateway gateway access
  ip -n laptop addr add 198.51.100.10/24 dev eth0
  ip -n router addr add 198.51.100.1/24 dev laptop
  ip -n laptop route add default via 198.51.100.1
  ip -n phone addr add 198.51.101.10/24 dev eth0
  ip -n router addr add 198.51.101.1/24 dev phone
  ip -n phone route add default via 198.51.101.1
  ip -n router addr add 192.0.2.254/24 dev gateway
  ip -n gateway addr add 192.0.2.1/24 dev access
  ip -n gateway route add default via 192.0.2.254

  # Underlay: one segment.
  ip -n switch link add bridge type bridge
  ip -n switch link set bridge up
  local name number
  for name in gateway:3 node-1:1 node-2:2; do
    number=${name#*:} name=${name%:*}
    wire "$name" underlay switch "$name"
    ip -n switch link set "$name" master bridge
    ip -n "$name" -6 addr add "$UNDERLAY::$number/64" dev underlay nodad
    ip -n "$name" -6 addr add "$BLOCK:$number::1/128" dev lo nodad
    # The kernel refuses this in a user namespace, and takes the underlay's address.
    ns "$name" ip sr tunsrc set "$BLOCK:$number::1" 2>/dev/null || true
  done
  local from to
  for from in gateway:3 node-1:1 node-2:2; do
    for to in 1 2 3; do
      [[ ${from#*:} == "$to" ]] || ip -n "${from%:*}" -6 route add "$BLOCK:$to::/64" via "$UNDERLAY::$to" dev underlay
    done
  done

  workload node-1 1 work-1p 1 10 1
  workload node-1 1 work-1s 2 20 1
  workload node-2 2 work-2p 1 10 2
}

# NODE NODE-ID WORKLOAD VPC(1 production, 2 staging) IPv6-PREFIX-NUMBER SUBNET
workload() {
  local node=$1 id=$2 work=$3 vpc=$4 six=$5 subnet=$6 table=$((100 + $4)) link=$3
  wire "$node" "$link" "$work" eth0
  ip -n "$node" addr add "169.254.$vpc.2/30" dev "$link"
  ip -n "$node" -6 addr add fe80::1/64 dev "$link" nodad
  ip -n "$work" addr add "169.254.$vpc.1/30" dev eth0
  ip -n "$work" addr add "10.0.$subnet.10/32" dev eth0
  ip -n "$work" -6 addr add "fd20:$six:0:$subnet::10/128" dev eth0 nodad
  ip -n "$work" -6 addr add fe80::2/64 dev eth0 nodad
  ip -n "$work" route add default via "169.254.$vpc.2" src "10.0.$subnet.10"
  ip -n "$work" -6 route add default via fe80::1 dev eth0 src "fd20:$six:0:$subnet::10"
  # Out of SRv6 …
  ip -n "$node" -6 route add "$BLOCK:$id:e00$vpc::/128" encap seg6local action End.DT6 table "$table" dev underlay
  ip -n "$node" -6 route add "$BLOCK:$id:d00$vpc::/128" encap seg6local action End.DX4 nh4 "169.254.$vpc.1" dev underlay
  ip -n "$node" -6 route add "fd20:$six:0:$subnet::/64" via fe80::2 dev "$link" table "$table"
  # … and into it: the clients live behind the gateway's SIDs.
  ip -n "$node" rule add iif "$link" lookup "$table"
  ip -n "$node" -6 rule add iif "$link" lookup "$table"
  ip -n "$node" route add 10.0.100.0/24 encap seg6 mode encap.red segs "$BLOCK:3:d00$vpc::" dev underlay table "$table"
  ip -n "$node" -6 route add "fd20:$six:0:100::/64" encap seg6 mode encap.red segs "$BLOCK:3:e00$vpc::" dev underlay table "$table"
}
