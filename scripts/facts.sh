# shellcheck shell=bash disable=SC2154
# Shown facts, each of them checked; sourced by the demonstrations. They set $work, a folder for what a check prints.

bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
[[ -t 1 ]] || bold='' green='' red='' plain=''
failed=()
part() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
yes() { printf '  %s✓%s %s\n' "$green" "$plain" "$*"; }
no() { printf '  %s✗ %s%s\n' "$red" "$*" "$plain"; failed+=("$*"); }
show() { sed 's/^/    /'; }

check() { # FACT COMMAND…
  local fact=$1; shift
  if "$@" > "$work/check.out" 2>&1; then yes "$fact"; else no "$fact"; sed 's/^/      /' "$work/check.out" | tail -n 6; fi
}

until_true() { # SECONDS COMMAND…
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do (( SECONDS < end )) || return 1; sleep 0.1; done
}

finish() { # LOG: the end of a demonstration
  echo
  if (( ${#failed[@]} )); then
    printf '%s%d fact(s) failed:%s\n' "$red" "${#failed[@]}" "$plain"; printf '  %s\n' "${failed[@]}"
    echo "Log:"; tail -n 20 "$1" | sed 's/^/  /'
    exit 1
  fi
  printf '%sEvery fact holds.%s Took %d s; everything is removed now.\n' "$green" "$plain" "$SECONDS"
}
