# shellcheck shell=bash disable=SC2154
# Images out of folders: one layer in an OCI layout, without a container builder or a registry. Sourced by kube.sh.

image() { # NAME ROOTFS [--user U:G] [-- COMMAND…]
  local name=${1:?image takes a NAME and a folder} root=${2:?image takes a NAME and a folder} user='' archive n
  shift 2
  [[ -d $root ]] || fail "no folder $root"
  if [[ ${1-} == --user ]]; then user=${2:?--user takes UID:GID}; shift 2; fi
  [[ ${1-} != -- ]] || shift
  [[ $name == */* ]] || name=localhost/$name
  [[ ${name##*/} == *:* ]] || name=$name:latest
  mkdir -p "$run/images"
  archive=$run/images/$(tr '/:' '__' <<<"$name").tar
  pack "$name" "$root" "$user" "$archive" "$@"
  for n in {1..9}; do ! running "node-$n" || import "$n" "$archive"; done
  echo "$name"
}

pack() { # NAME ROOTFS USER ARCHIVE COMMAND…
  local name=$1 root=$2 user=$3 archive=$4 folder; shift 4
  folder=$(mktemp -d "$run/image.XXXXXX")
  # With extended attributes: a file capability is one.
  tar --create --file "$folder/layer" --directory "$root" --sort name --mtime @0 --owner 0 --group 0 --numeric-owner --xattrs --xattrs-include '*' .
  python3 - "$folder" "$name" "$user" "$@" <<'PY'
import hashlib, json, pathlib, platform, sys
folder, name, user, *command = sys.argv[1:]
folder = pathlib.Path(folder)
blobs = folder / "blobs" / "sha256"
blobs.mkdir(parents=True)

def blob(media, data):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{media}", "digest": f"sha256:{digest}", "size": len(data)}

layer = blob("layer.v1.tar", (folder / "layer").read_bytes())
machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
config = blob("config.v1+json", json.dumps({
    "architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    "config": {"User": user, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Entrypoint": command}}).encode())
manifest = blob("manifest.v1+json", json.dumps({
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]}).encode())
manifest["annotations"] = {"io.containerd.image.name": name}
(folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
(folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
PY
  tar --create --file "$archive.part" --directory "$folder" oci-layout index.json blobs
  mv "$archive.part" "$archive"
  rm -rf "$folder"
}

import() { # N ARCHIVE
  on "$1" ctr --namespace k8s.io images import "$2" >/dev/null || fail "node $1 does not take the image ${2##*/}"
}

# What holds the namespaces of a pod.
pause_image() {
  [[ ! -f $run/images/pause.tar ]] || return 0
  local root; root=$(mktemp -d "$run/pause.XXXXXX")
  mkdir -p "$run/images"
  cp "$(find_program pause)" "$root/pause"
  pack "$PAUSE" "$root" 65535:65535 "$run/images/pause.tar" /pause
  rm -rf "$root"
}
