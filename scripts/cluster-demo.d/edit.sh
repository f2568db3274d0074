# shellcheck shell=bash
# A policy edit under traffic; sourced by scripts/cluster-demo.

# Makes an edit as soon as it looks, and prints the milliseconds from there until TCP 10.0.1.10:8080 opens (or, with "closes", no longer
# opens). The edit itself is kubectl's start, the API server, the operator, the pods.
until_it() { # opens|closes PATCH
  ip netns exec laptop python3 - "$1" "$work/edit" <<'PY' &
import os, socket, sys, time
open(sys.argv[2] + ".looks", "w").close()
while not os.path.exists(sys.argv[2] + ".begun"):
    time.sleep(0.001)
began = os.stat(sys.argv[2] + ".begun").st_mtime
shut = None
while time.time() - began < 10:
    asked = time.time()
    with socket.socket() as s:
        s.settimeout(0.1)
        try:
            s.connect(("10.0.1.10", 8080))
            opened = True
        except OSError:
            opened = False
    if opened and sys.argv[1] == "opens":
        print(round((time.time() - began) * 1000))
        sys.exit()
    # One answer that is late on a busy machine is no refusal; three in a row are.
    shut = None if opened else [*(shut or []), asked]
    if sys.argv[1] == "closes" and shut and len(shut) == 3:
        print(round((shut[0] - began) * 1000))
        sys.exit()
print("more than 10000")
sys.exit(1)
PY
  local looker=$!
  until [[ -e $work/edit.looks ]] || ! kill -0 $looker 2>/dev/null; do sleep 0.01; done
  touch "$work/edit.begun"
  in_production patch vpcap web --type json -p "$2" > "$work/patch.out" 2>&1
  wait $looker; local result=$?
  rm -f "$work/edit.looks" "$work/edit.begun"
  return $result
}

edit_policy() {
  part "Edit the policy while packets flow"
  pings 10.0.1.10 edit.ping
  sleep 1
  local took
  took=$(until_it opens '[{"op":"add","path":"/spec/rules/-","value":{"name":"debug","ports":[{"protocol":"TCP","port":8080}]}}]') &&
    yes "TCP 8080 opens $took ms after kubectl was started (goal 500)" || no "TCP 8080 opens: $took ms"
  policy_is_programmed() {
    [[ $(in_production get vpcap web -o jsonpath='{.metadata.generation}') == "$(in_production get vpcap web -o jsonpath="{.status.ancestors[0].conditions[?(@.type=='Programmed')].observedGeneration}")" ]] &&
      [[ $(in_production get vpcap web -o jsonpath="{.status.ancestors[0].conditions[?(@.type=='Programmed')].status}") == True ]]
  }
  check "the policy is Programmed: every pod acknowledged this generation" until_true 5 policy_is_programmed
  took=$(until_it closes '[{"op":"remove","path":"/spec/rules/2"}]') && yes "and closes again after $took ms" || no "TCP 8080 closes: $took ms"
  sleep 0.5
  stop_pings
  check "of the pings that ran meanwhile none was lost ($(grep -c 'bytes from' "$work/edit.ping") replies)" test "$(lost "$work/edit.ping")" = 0
}
