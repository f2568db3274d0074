#!/usr/bin/env bash
# A throw-away Kubernetes for tests: etcd, API server, controller manager and scheduler are processes on 127.0.0.1, no root. Nodes
# are real: containerd, kubelet and kube-proxy in namespaces of their own (root, cgroup v1).
#   scripts/kube.sh build [NAME…|node]         build what is missing (default: etcd kube-apiserver kube-controller-manager kubectl)
#   scripts/kube.sh up [api|kcm|all] [--while PID]  start what does not run, print the path of the kubeconfig; down by itself when PID
#                                              ends. api: etcd and API server; kcm (default): and controller manager; all: for nodes
#   scripts/kube.sh node N                     start node N, 1 to 9, and wait until it is Ready; needs `up all`
#   scripts/kube.sh stop-node N                end it as a power failure would
#   scripts/kube.sh on N COMMAND…              run a command inside node N: ip, nft, ctr, nsenter
#   scripts/kube.sh image NAME ROOTFS [--user U:G] [-- COMMAND…]  a folder becomes localhost/NAME in every node
#   scripts/kube.sh helm ARGUMENT…             the helm that was found or built
#   scripts/kube.sh kubeconfig [--as NS/SA]    print that path again, or a kubeconfig with a ServiceAccount's rights
#   scripts/kube.sh stop NAME                  end one process as a power failure would; `up` starts it again with its data
#   scripts/kube.sh kubectl ARGUMENT…          the kubectl that was found or built
#   scripts/kube.sh status                     what runs
#   scripts/kube.sh down                       end everything and remove the data
# Environment: KUBE_LAB_ID names the cluster (letters, digits, dashes; default 0), clusters of different names run side by side.
# MASQUE_KUBE_BIN is a folder of programs to use before any other. KUBE_APISERVER_ARGS are more flags of the API server.
# KUBE_UNSAFE_SYSCTLS is what nodes let pods set; empty as with a stock kubelet.
# Exit status 69: the programs are not there and cannot be built here (no Go, or no module proxy).
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}
home=$cache/masque-gateway-kube
id=${KUBE_LAB_ID:-0}
run=$home/run/$id
export PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
API=(etcd kube-apiserver kubectl)
UNAVAILABLE=69 READY_S=90 STOP_S=10

fail() { echo "kube.sh: $*" >&2; exit 1; }
note() { echo "kube.sh: $*" >&2; }
[[ $id =~ ^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || fail "KUBE_LAB_ID must be at most 40 letters, digits and dashes, not '$id'"

# --- programs

find_program() { # NAME: its path, from the first place that has it
  local folder
  for folder in ${MASQUE_KUBE_BIN:+"$MASQUE_KUBE_BIN"} "$home/bin" "$cache/kube-lab/bin"; do
    [[ -x $folder/$1 ]] && { echo "$folder/$1"; return; }
  done
  command -v "$1"
}

build_one() {
  local package version flags= variable
  case $1 in
    etcd) package=go.etcd.io/etcd/server/v3 ;;
    kube-* | kubectl | kubelet) package=k8s.io/kubernetes/cmd/$1 ;;
    pause) package=./pause ;;
    # Its Kubernetes is not that of the others.
    helm) package=helm.sh/helm/v4/cmd/helm@v4.2.4 ;;
    *) fail "no recipe for '$1'" ;;
  esac
  command -v go >/dev/null || { note "$1 is not there, and building it needs Go 1.26 (https://go.dev)"; exit $UNAVAILABLE; }
  mkdir -p "$home/bin"
  note "building $1: minutes when it is the first, seconds later"
  export CGO_ENABLED=0 GOWORK=off GOFLAGS=-buildvcs=false GOCACHE=${MASQUE_KUBE_GOCACHE:-$home/go-build}
  if [[ $package == *@* ]]; then
    GOBIN=$home/bin nice -n 10 go install -trimpath -ldflags "-s -w" "$package" >&2 || { note "$1 cannot be built"; exit $UNAVAILABLE; }
    return
  fi
  (
    cd tests/cluster/lab
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes) || exit $UNAVAILABLE
    # Without these the programs say v0.0.0, and clients that ask for a version refuse them.
    for variable in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      flags+=" -X $variable.gitVersion=$version -X $variable.gitMajor=1 -X $variable.gitMinor=$(cut -d. -f2 <<<"$version") -X $variable.gitTreeState=clean"
    done
    nice -n 10 go build -trimpath -ldflags "-s -w$flags" -o "$home/bin/$1.part" "$package"
  ) >&2 || { note "$1 cannot be built"; exit $UNAVAILABLE; }
  mv "$home/bin/$1.part" "$home/bin/$1"
}

build() { # NAME…
  local name
  for name in "$@"; do find_program "$name" >/dev/null || build_one "$name"; done
}

# --- processes: known by their id and the moment they began, so that a reused id is never signalled

# Nothing when it has ended. One whose first thread is a zombie goes on, with its sockets, until the other threads have ended.
began() {
  local tasks
  tasks=$(compgen -G "/proc/$1/task/*" | wc -l)
  awk -v tasks="$tasks" '{ sub(/^.*\) /, ""); if ($1 != "Z" || tasks > 1) print $20 }' "/proc/$1/stat" 2>/dev/null || true
}

running() { # NAME
  local pid moment
  [[ -f $run/$1.pid ]] && read -r pid moment <"$run/$1.pid" && [[ -n $moment && $(began "$pid") == "$moment" ]]
}

launch() { launch_as "$1" "$(find_program "$1")" "${@:2}"; } # NAME ARGUMENT…

launch_as() { # NAME COMMAND…: in a session of its own, without the descriptors of the caller
  local name=$1 pid; shift
  (
    for fd in /proc/self/fd/*; do fd=${fd##*/}; (( fd > 2 )) && eval "exec $fd>&-"; done
    exec setsid "$@"
  ) </dev/null >>"$run/$name.log" 2>&1 &
  pid=$!
  echo "$pid $(began $pid)" >"$run/$name.pid"
}

end() { # NAME SIGNAL
  local pid tries
  if running "$1"; then
    read -r pid _ <"$run/$1.pid"
    kill "-$2" "$pid" 2>/dev/null || true
    for (( tries = STOP_S * 10; tries; tries-- )); do running "$1" || break; sleep 0.1; done
    ! running "$1" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$run/$1.pid"
}

await() { # NAME COMMAND…
  local name=$1 end=$((SECONDS + READY_S)); shift
  until "$@" >/dev/null 2>&1; do
    running "$name" || { tail -n 12 "$run/$name.log" >&2; fail "$name ended; its output: $run/$name.log"; }
    (( SECONDS < end )) || fail "$name is not ready after $READY_S s; its output: $run/$name.log"
    sleep 0.1
  done
}

# --- the cluster

port() { # NAME: chosen once, kept over restarts
  if [[ ! -f $run/$1.port ]]; then
    # The kernel's choice, below the range it gives to outgoing connections as long as one is free there.
    python3 - "$run" >"$run/$1.port.new" <<'PY'
import pathlib, random, socket, sys
taken = {path.read_text().strip() for path in pathlib.Path(sys.argv[1]).parent.glob("*/*.port")}
while True:
    port = random.randrange(20000, 30000)
    if str(port) in taken:
        continue
    try:
        socket.socket().bind(("127.0.0.1", port))
    except OSError:
        continue
    print(port)
    break
PY
    mv "$run/$1.port.new" "$run/$1.port"
  fi
  cat "$run/$1.port"
}

sign() { # NAME SUBJECT [ALTERNATIVE NAMES]
  local extensions="keyUsage=digitalSignature
extendedKeyUsage=serverAuth,clientAuth${3:+
subjectAltName=$3}"
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$run/$1.key" 2>/dev/null |
    openssl x509 -req -CA "$run/ca.crt" -CAkey "$run/ca.key" -CAcreateserial -days 30 -extfile <(echo "$extensions") -out "$run/$1.crt" 2>/dev/null
}

kubeconfig_file() { # FILE USER-AS-JSON [HOST:PORT]
  (umask 077; printf '{"apiVersion":"v1","kind":"Config","current-context":"lab","contexts":[{"name":"lab","context":{"cluster":"lab","user":"lab"}}],"clusters":[{"name":"lab","cluster":{"server":"https://%s","certificate-authority":"%s"}}],"users":[{"name":"lab","user":%s}]}\n' \
    "${3:-127.0.0.1:$(port kube-apiserver)}" "$run/ca.crt" "$2" >"$1")
}
by_certificate() { printf '{"client-certificate":"%s","client-key":"%s"}' "$run/$1.crt" "$run/$1.key"; }
kc() { "$(find_program kubectl)" --kubeconfig "$run/admin.kubeconfig" "$@"; }

prepare() { # keys and kubeconfigs, once
  [[ -f $run/prepared ]] && return
  mkdir -p "$run" && chmod 700 "$run"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=masque-test -keyout "$run/ca.key" -out "$run/ca.crt" 2>/dev/null
  openssl genrsa -out "$run/accounts.key" 2048 2>/dev/null
  sign server /CN=kube-apiserver "IP:127.0.0.1,IP:$(host4),IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc"
  sign admin /O=system:masters/CN=admin
  sign manager /CN=system:kube-controller-manager
  sign scheduler /CN=system:kube-scheduler
  sign proxy /CN=system:kube-proxy
  kubeconfig_file "$run/admin.kubeconfig" "$(by_certificate admin)"
  kubeconfig_file "$run/manager.kubeconfig" "$(by_certificate manager)"
  kubeconfig_file "$run/scheduler.kubeconfig" "$(by_certificate scheduler)"
  touch "$run/prepared"
}

etcd_up() {
  local client=http://127.0.0.1:$(port etcd) peer=http://127.0.0.1:$(port etcd-peer)
  launch etcd --name test --data-dir "$run/etcd" --unsafe-no-fsync --log-level error --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "test=$peer"
  await etcd curl -fs "$client/health"
}

apiserver_up() {
  # Without nodes nobody asks for the addresses of the Service "kubernetes". The advertised one must not be loopback.
  local advertised=(--advertise-address "$(host4)" --endpoint-reconciler-type none)
  [[ ! -e $run/for-nodes ]] || advertised=(--advertise-address "$(host4)" --enable-admission-plugins NodeRestriction
    --kubelet-certificate-authority "$run/ca.crt" --kubelet-client-certificate "$run/admin.crt" --kubelet-client-key "$run/admin.key"
    --kubelet-preferred-address-types InternalIP)
  # shellcheck disable=SC2086
  launch kube-apiserver --etcd-servers "http://127.0.0.1:$(port etcd)" --bind-address 127.0.0.1 --secure-port "$(port kube-apiserver)" \
    "${advertised[@]}" --service-cluster-ip-range 10.96.0.0/16,fd96::/112 \
    --tls-cert-file "$run/server.crt" --tls-private-key-file "$run/server.key" --client-ca-file "$run/ca.crt" --authorization-mode Node,RBAC \
    --allow-privileged --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$run/accounts.key" \
    --service-account-signing-key-file "$run/accounts.key" ${KUBE_APISERVER_ARGS-}
  await kube-apiserver kc get --raw /readyz
}

manager_up() {
  launch kube-controller-manager --kubeconfig "$run/manager.kubeconfig" --authentication-kubeconfig "$run/manager.kubeconfig" \
    --authorization-kubeconfig "$run/manager.kubeconfig" --bind-address 127.0.0.1 --secure-port "$(port kube-controller-manager)" --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file "$run/accounts.key" --root-ca-file "$run/ca.crt"
  # Its ServiceAccount controller works: pods of a namespace are refused before that.
  await kube-controller-manager kc -n default get serviceaccount default
}

scheduler_up() {
  launch kube-scheduler --kubeconfig "$run/scheduler.kubeconfig" --authentication-kubeconfig "$run/scheduler.kubeconfig" \
    --authorization-kubeconfig "$run/scheduler.kubeconfig" --bind-address 127.0.0.1 --secure-port "$(port kube-scheduler)" --leader-elect=false
  await kube-scheduler curl -fsk "https://127.0.0.1:$(port kube-scheduler)/healthz"
}

up() {
  local parts=kcm watched=
  while (( $# )); do
    case $1 in
      api | kcm | all) parts=$1 ;;
      --while) shift; watched=${1:?a process id} ;;
      *) fail "up takes api, kcm or all, and --while PID, not '$1'" ;;
    esac
    shift
  done
  local tool
  for tool in openssl curl python3 setsid; do command -v $tool >/dev/null || { note "$tool is not installed"; exit $UNAVAILABLE; }; done
  build "${API[@]}"
  [[ $parts == api ]] || build kube-controller-manager
  [[ $parts != all ]] || build kube-scheduler
  # Before anything starts, so that nothing outlives a caller that ends meanwhile.
  if [[ $watched ]]; then
    KUBE_LAB_ID=$id setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; exec "$2" down' kube-watch "$watched" "$PWD/scripts/kube.sh" </dev/null >/dev/null 2>&1 &
  fi
  if [[ $parts == all && ! -e $run/for-nodes ]]; then
    ! running kube-apiserver || fail "cluster '$id' was started without nodes in mind; scripts/kube.sh down first"
    mkdir -p "$run" && touch "$run/for-nodes"
  fi
  prepare
  running etcd || etcd_up
  running kube-apiserver || apiserver_up
  [[ $parts == api ]] || running kube-controller-manager || manager_up
  [[ $parts != all ]] || running kube-scheduler || scheduler_up
  echo "$run/admin.kubeconfig"
}

kubeconfig() {
  running kube-apiserver || fail "cluster '$id' does not run; scripts/kube.sh up"
  case ${1-} in
    '') echo "$run/admin.kubeconfig" ;;
    --as)
      [[ ${2-} == ?*/?* ]] || fail "--as takes NAMESPACE/SERVICEACCOUNT"
      local file=$run/${2/\//.}.kubeconfig token
      token=$(kc -n "${2%/*}" create token "${2#*/}" --duration 8h) || fail "no token for $2"
      kubeconfig_file "$file" "{\"token\":\"$token\"}"
      echo "$file" ;;
    *) fail "kubeconfig takes --as NAMESPACE/SERVICEACCOUNT, not '$1'" ;;
  esac
}

status() {
  local name
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    running "$name" && echo "$name: process $(cut -d' ' -f1 "$run/$name.pid"), port $(port "$name")" || echo "$name: not running"
  done
  for name in node-{1..9}; do ! running "$name" || echo "$name: process $(cut -d' ' -f1 "$run/$name.pid")"; done
}

down() {
  local name
  [[ -d $run ]] || return 0
  for name in kube-scheduler kube-controller-manager; do end "$name" KILL; done
  remove_nodes
  for name in kube-apiserver etcd; do end "$name" KILL; done
  rm -rf "$run"
}

# shellcheck source=scripts/kube/node.sh
. scripts/kube/node.sh
# shellcheck source=scripts/kube/image.sh
. scripts/kube/image.sh

command=${1:-help}; (( $# == 0 )) || shift
case $command in
  build)
    case ${1-} in
      '') build "${API[@]}" kube-controller-manager ;;
      node) build "${API[@]}" kube-controller-manager kube-scheduler "${NODE[@]}"; debian ;;
      *) build "$@" ;;
    esac ;;
  up) up "$@" ;;
  kubeconfig) kubeconfig "$@" ;;
  stop) end "${1:?a name of status}" KILL ;;
  kubectl) build kubectl; exec "$(find_program kubectl)" "$@" ;;
  helm) build helm; exec "$(find_program helm)" "$@" ;;
  node) node "$@" ;;
  on) on "$@" ;;
  image) image "$@" ;;
  stop-node) remove_node "${1-}" ;;
  status) status ;;
  down) down ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
esac
