# shellcheck shell=bash disable=SC2154
# Real nodes: containerd, kubelet and kube-proxy in network, mount and process namespaces of their own. Sourced by kube.sh.
# Of the host a node uses one bridge, which leads to the other nodes and to the API server.

PAUSE=localhost/masque/pause:1
DEBIAN=$home/debian
NODE=(kubelet kube-proxy pause)
UNSAFE_SYSCTLS=${KUBE_UNSAFE_SYSCTLS-net.ipv4.ip_forward,net.ipv4.conf.*,net.ipv6.conf.*,net.vrf.*}

# --- addresses: the cluster's number N gives 10.210.N.0/24 and fdc0:N::/64 to nodes, 10.(110+N).0.0/16 and fdc1:N::/32 to pods

bridge() { echo "mqk$(number)"; }
host4() { echo "10.210.$(number).1"; }
host6() { echo "fdc0:$(number)::1"; }
node4() { echo "10.210.$(number).$((10 + $1))"; }
node6() { echo "fdc0:$(number)::$((10 + $1))"; }
pods4() { echo "10.$((110 + $(number))).$1.0/24"; }
pods6() { echo "fdc1:$(number):$1::/64"; }
every_pod() { echo "10.$((110 + $(number))).0.0/16,fdc1:$(number)::/32"; }
netns() { echo "$(bridge)-n$1"; }

number() { # 0..99, this cluster's alone while it runs
  # Two that start in the same moment look one after the other.
  [[ -f $run/number ]] || flock "$home/run" python3 - "$run" <<'PY'
import os, pathlib, sys
run = pathlib.Path(sys.argv[1])
taken = {path.read_text().strip() for path in run.parent.glob("*/number")}
taken |= {name[3:] for name in os.listdir("/sys/class/net") if name.startswith("mqk")}
free = [str(n) for n in range(100) if str(n) not in taken]
(run / "number").write_text(free[0] + "\n")
PY
  cat "$run/number"
}

# --- programs: unpacked from Debian's packages, not installed, so that no service starts

debian() {
  [[ ! -e $DEBIAN/complete ]] || return 0
  local work package packages=(containerd runc containernetworking-plugins busybox-static)
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || { note "a node needs containerd, runc and CNI plugins, which come from Debian's packages; there is no apt-get"; exit $UNAVAILABLE; }
  note "fetching ${packages[*]}"
  work=$(mktemp -d) && mkdir -p "$DEBIAN"
  # apt's own user reads and writes here.
  chmod 755 "$work"
  (cd "$work" && { apt-get download -qq "${packages[@]}" 2>/dev/null || { apt-get update -qq && apt-get download -qq "${packages[@]}"; }; }) >&2 ||
    { note "apt-get cannot download ${packages[*]}"; exit $UNAVAILABLE; }
  for package in "$work"/*.deb; do dpkg -x "$package" "$DEBIAN"; done
  rm -rf "$work"
  touch "$DEBIAN/complete"
}

# --- one node

is_number() { [[ ${1-} =~ ^[1-9]$ ]] || fail "a node's number is 1 to 9, not '${1-}'"; }

node() { # N
  local n=${1:-1} folder archive
  is_number "$n"
  [[ $(id -u) == 0 ]] || { note "a node needs root: namespaces, mounts, cgroups"; exit $UNAVAILABLE; }
  [[ -d /sys/fs/cgroup/cpuset ]] || { note "a node needs the cgroup v1 hierarchies; this machine has cgroup v2 only"; exit $UNAVAILABLE; }
  running kube-scheduler || fail "cluster '$id' runs without a scheduler; scripts/kube.sh up all"
  running "node-$n" && { note "node $n runs already"; return; }
  scripts/deps nft:nftables ip:iproute2 iptables:iptables nsenter:util-linux pgrep:procps >&2 || exit $UNAVAILABLE
  build "${NODE[@]}" && debian && pause_image
  folder=$run/node-$n
  remove_node "$n"
  mkdir -p "$folder/net.d"
  segment
  connect "$n"
  configure "$n" "$folder"
  launch_as "node-$n" nsenter --net="/run/netns/$(netns "$n")" unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
    "$PWD/scripts/kube/node-init" "$folder" "node-$n" "$(node4 "$n"),$(node6 "$n")" "$(netns "$n")" "$DEBIAN" "$(find_program kubelet)" "$(find_program kube-proxy)"
  await "node-$n" on "$n" ctr version
  for archive in "$run"/images/*.tar; do import "$n" "$archive"; done
  touch "$folder/images-loaded"
  await "node-$n" kc wait --for=condition=Ready "node/node-$n" --timeout=2s
}

# The segment of nodes and host, with the way to the API server, which itself listens on loopback only.
segment() {
  local bridge port; bridge=$(bridge) port=$(port kube-apiserver)
  ! ip link show "$bridge" >/dev/null 2>&1 || return 0
  ip link add "$bridge" type bridge
  ip link set "$bridge" up
  ip address add "$(host4)/24" dev "$bridge"
  ip address add "$(host6)/64" dev "$bridge" nodad
  sysctl -qw "net.ipv4.conf.$bridge.route_localnet=1"
  nft -f - <<NFT
table ip $bridge {
  chain arriving {
    type nat hook prerouting priority dstnat
    iifname "$bridge" ip daddr $(host4) tcp dport $port dnat to 127.0.0.1:$port
  }
}
NFT
  # A kubelet sets these for the whole machine.
  local key
  for key in vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes; do
    echo "$key=$(sysctl -n $key 2>/dev/null)"
  done >"$run/sysctls"
}

connect() { # N: its namespace, its link, and routes to pods: from the host, and between nodes
  local n=$1 ns link other; ns=$(netns "$n") link=$(bridge)n$n
  ip netns add "$ns"
  ip link add "$link" mtu 1500 type veth peer name eth0 netns "$ns"
  ip link set "$link" master "$(bridge)" up
  ip -n "$ns" link set lo up
  ip -n "$ns" link set eth0 up
  ip -n "$ns" address add "$(node4 "$n")/24" dev eth0
  ip -n "$ns" address add "$(node6 "$n")/64" dev eth0 nodad
  ip -n "$ns" route add default via "$(host4)"
  ip -n "$ns" route add default via "$(host6)"
  nsenter --net="/run/netns/$ns" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  ip route replace "$(pods4 "$n")" via "$(node4 "$n")"
  ip route replace "$(pods6 "$n")" via "$(node6 "$n")"
  for other in {1..9}; do
    [[ $other != "$n" && -e /run/netns/$(netns "$other") ]] || continue
    ip -n "$ns" route replace "$(pods4 "$other")" via "$(node4 "$other")"
    ip -n "$ns" route replace "$(pods6 "$other")" via "$(node6 "$other")"
    ip -n "$(netns "$other")" route replace "$(pods4 "$n")" via "$(node4 "$n")"
    ip -n "$(netns "$other")" route replace "$(pods6 "$n")" via "$(node6 "$n")"
  done
}

configure() { # N FOLDER: what its three daemons read
  local n=$1 folder=$2 server sysctls
  server=$(host4):$(port kube-apiserver)
  sign "node-$n" "/O=system:nodes/CN=system:node:node-$n" "IP:$(node4 "$n"),IP:$(node6 "$n"),DNS:node-$n"
  kubeconfig_file "$folder/kubelet.kubeconfig" "$(by_certificate "node-$n")" "$server"
  kubeconfig_file "$folder/kube-proxy.kubeconfig" "$(by_certificate proxy)" "$server"
  sysctls=${UNSAFE_SYSCTLS:+\"${UNSAFE_SYSCTLS//,/\",\"}\"}
  cat >"$folder/containerd.toml" <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE"
# Without it runc wants CAP_SYS_RESOURCE, which root of a virtual machine may lack.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$DEBIAN/usr/lib/cni"
conf_dir = "$folder/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "$DEBIAN/usr/sbin/runc"
SystemdCgroup = false
TOML
  cat >"$folder/net.d/10-lab.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(pods4 "$n")"}], [{"subnet": "$(pods6 "$n")"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$run/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: "$run/node-$n.crt"
tlsPrivateKeyFile: "$run/node-$n.key"
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$(netns "$n")
failCgroupV1: false
failSwapOn: false
resolvConf: ""
clusterDomain: cluster.local
allowedUnsafeSysctls: [$sysctls]
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
YAML
  cat >"$folder/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: "$folder/kube-proxy.kubeconfig"}
hostnameOverride: node-$n
clusterCIDR: "$(every_pod)"
detectLocalMode: ClusterCIDR
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
}

on() { # N COMMAND…: inside the node
  local n=${1-} outer inner; shift || true
  is_number "$n"
  (( $# )) || fail "on $n: which command?"
  running "node-$n" || fail "node $n does not run"
  read -r outer _ <"$run/node-$n.pid"
  inner=$(pgrep -P "$outer" | head -n 1)
  [[ $inner ]] || return 1
  PATH=$DEBIAN/usr/bin:$DEBIAN/usr/sbin:$PATH nsenter --target "$inner" --mount --net --pid -- "$@"
}

remove_node() { # N: as a power failure would
  local n=$1 ns controller tries; ns=$(netns "$n")
  is_number "$n"
  end "node-$n" KILL
  ip link delete "$(bridge)n$n" 2>/dev/null || true
  # What the kernel still takes apart holds its namespace, its groups and its folders for a moment.
  for (( tries = 50; tries; tries-- )); do
    ip netns delete "$ns" 2>/dev/null || true
    for controller in /sys/fs/cgroup/*/"$ns"; do [[ ! -d $controller ]] || find "$controller" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    rm -rf "$run/node-$n" 2>/dev/null || true
    [[ -e /run/netns/$ns || -e $run/node-$n || $(compgen -G "/sys/fs/cgroup/*/$ns") ]] || return 0
    sleep 0.1
  done
  note "of node $n something is left: /run/netns/$ns, $run/node-$n or /sys/fs/cgroup/*/$ns"
}

remove_nodes() {
  [[ -f $run/number && $(id -u) == 0 ]] || return 0
  local n line bridge; bridge=$(bridge)
  for n in {1..9}; do [[ ! -d $run/node-$n && ! -e /run/netns/$(netns "$n") ]] || remove_node "$n"; done
  ip link delete "$bridge" 2>/dev/null || true
  nft delete table ip "$bridge" 2>/dev/null || true
  [[ ! -f $run/sysctls ]] || while read -r line; do sysctl -qw "$line" 2>/dev/null || true; done <"$run/sysctls"
}
