#!/usr/bin/env bash
# Breaks the log, the store and the members of a simulated cluster on purpose, one switch at a time, and demands that their tests notice:
#
#   tests/sabotage.sh [SWITCH...]     all switches, or some
#
# The switches are in broker/log/src/sabotage.rs. They exist only in a build with the feature `sabotage`, which gets a
# target folder of its own. A switch that no test notices is a hole in the tests. `tests/run.sh sabotage` runs this.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"
cd "$kerolox_root"
. deploy/env.sh
export CARGO_TARGET_DIR="$CARGO_TARGET_DIR/sabotage"
# With a fixed seed a switch is caught today if it was caught yesterday.
powercut_flags=(--seeds 300 --seed 1)
sim_flags=(--seeds 600 --seed 1)
# A broken engine may also hang, which counts as noticed: a program gets this many seconds, and some times what it takes
# without sabotage, so that a busy machine is not mistaken for that.
patience=30 patience_times=5

logs="$(mktemp -d "${TMPDIR:-/tmp}/kerolox-sabotage.XXXXXX")"
trap 'rm -rf "$logs"' EXIT

say "Building with the feature sabotage"
cargo test --release --locked -p kerolox-log -p kerolox-store \
  --features kerolox-log/sabotage,kerolox-store/sabotage --no-run --message-format=json \
  | sed -n 's/.*"name":"\([^"]*\)","src_path":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3/p' >"$logs/programs"
cargo build --release --locked -p kerolox-powercut --features sabotage
cargo build --release --locked -p kerolox-sim --features sabotage
powercut="$CARGO_TARGET_DIR/release/powercut" sim="$CARGO_TARGET_DIR/release/sim"

# Runs a program under a switch, and prints its name if it fails. Without a switch it may take any time, which is noted.
check() { # SWITCH NAME FOLDER COMMAND...
  local switch="$1" name="$2" dir="$3" code=0 start=$SECONDS limit=0
  shift 3
  if [ -n "$switch" ]; then limit="$(<"$logs/$name.limit")"; fi
  (cd "$dir" && KEROLOX_SABOTAGE="$switch" PROPTEST_CASES=300 PROPTEST_DISABLE_FAILURE_PERSISTENCE=true timeout "$limit" "$@") >"$logs/output" 2>&1 </dev/null \
    || code=$?
  if [ -z "$switch" ]; then echo $((patience + patience_times * (SECONDS - start))) >"$logs/$name.limit"; fi
  case "$code" in
    0) ;;
    124) printf '%s(hangs) ' "$name" ;;
    *) printf '%s ' "$name" ;;
  esac
  if [ "$code" != 0 ]; then cp "$logs/output" "$logs/failed"; fi
}

# Runs every test program under a switch and prints the names of those that fail.
noticed_by() { # SWITCH
  local name path program dir
  while read -r name path program; do
    case "$path" in
      */examples/*) continue ;; # no test
      */broker/log/*) dir=broker/log ;;
      */broker/store/*) dir=broker/store ;;
      *) continue ;;
    esac
    check "$1" "${dir#broker/}::$name" "$dir" "$program" --quiet
  done <"$logs/programs"
  check "$1" powercut . "$powercut" "${powercut_flags[@]}"
  check "$1" sim . "$sim" "${sim_flags[@]}"
}

say "Without sabotage everything passes"
failing="$(noticed_by '')"
if [ -n "$failing" ]; then
  cat "$logs/failed"
  fail "these fail without sabotage: $failing"
fi

if [ $# -gt 0 ]; then switches=("$@"); else mapfile -t switches < <("$powercut" --list-sabotages | cut -d' ' -f1); fi
caught=0
for switch in "${switches[@]}"; do
  by="$(noticed_by "$switch")"
  if [ -n "$by" ]; then
    caught=$((caught + 1))
    echo "caught  $switch: $by"
  else
    echo "MISSED  $switch: no test fails"
  fi
done
echo "sabotage: ${#switches[@]} switches, $caught caught"
[ "$caught" = "${#switches[@]}" ]
