#!/usr/bin/env bash
# Breaks the log and the store on purpose, one switch at a time, and demands that their tests notice:
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
# Longest time that a broken engine gets for one program: it may also hang, which counts as noticed.
patience=60

logs="$(mktemp -d "${TMPDIR:-/tmp}/kerolox-sabotage.XXXXXX")"
trap 'rm -rf "$logs"' EXIT

say "Building with the feature sabotage"
cargo test --release --locked -p kerolox-log -p kerolox-store \
  --features kerolox-log/sabotage,kerolox-store/sabotage --no-run --message-format=json \
  | sed -n 's/.*"name":"\([^"]*\)","src_path":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3/p' >"$logs/programs"
cargo build --release --locked -p kerolox-powercut --features sabotage
powercut="$CARGO_TARGET_DIR/release/powercut"

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
    if ! (cd "$dir" && KEROLOX_SABOTAGE="$1" PROPTEST_CASES=300 timeout "$patience" "$program" --quiet) \
      >"$logs/output" 2>&1 </dev/null; then
      printf '%s::%s ' "${dir#broker/}" "$name"
    fi
  done <"$logs/programs"
  if ! KEROLOX_SABOTAGE="$1" timeout "$patience" "$powercut" "${powercut_flags[@]}" >"$logs/output" 2>&1; then
    printf 'powercut '
  fi
}

say "Without sabotage everything passes"
failing="$(noticed_by '')"
if [ -n "$failing" ]; then
  cat "$logs/output"
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
