#!/usr/bin/env bash
# Breaks the log, the store, the members of a simulated cluster and the programs on purpose, one switch at a time, and
# demands that their tests notice:
#
#   tests/sabotage.sh [--all-suites] [SWITCH...]
#                                     all switches, or some; only what these need is built and run. A switch is done when
#                                     the first suite notices it, the quickest suites first; --all-suites goes on
#
# The switches are in broker/log/src/sabotage.rs. They exist only in a build with the feature `sabotage`, which gets a
# target folder of its own, of some GB. A switch that no test notices is a hole in the tests. `tests/run.sh sabotage` runs this.
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
# So long may the end-to-end tests of one switch take.
programs_patience=600

# Switches of the programs: what end-to-end tests have to notice with real brokers and nameservers. A line is a switch and a
# filter for the names of the tests that are run under it, as `cargo test --test e2e -- FILTER` takes it.
programs_switches='
forget-members        forgotten_decisions::a_stale_member_that_starts_first_waits_for_the_others
cut-confirmed         forgotten_decisions::nobody_gives_up_what_was_confirmed_without_an_operator
trust-any-copy        lost_nameserver_data::an_older_copy_under_running_members_is_put_right_by_them
one-lineage-for-good  lost_nameserver_data::members_that_were_not_in_sync_are_not_waited_for
blank-identity-not-kept  member_identity::a_member_that_is_killed_before_its_first_record_comes_back_as_itself
announced-does-not-count  differing_subscriptions::a_member_counts_everywhere_from_its_announcement
'

first_only=yes
if [ "${1:-}" = --all-suites ]; then first_only="" && shift; fi

logs="$(mktemp -d "${TMPDIR:-/tmp}/kerolox-sabotage.XXXXXX")"
trap 'rm -rf "$logs"' EXIT

# The end-to-end tests that concern a switch, if it is one of the programs.
filter_of() { # SWITCH
  awk -v wanted="$1" '$1 == wanted { print $2 }' <<<"$programs_switches"
}

say "Building with the feature sabotage"
cargo build --release --locked -p kerolox-powercut --features sabotage
powercut="$CARGO_TARGET_DIR/release/powercut" sim="$CARGO_TARGET_DIR/release/sim"
listed="$("$powercut" --list-sabotages)"
mapfile -t known < <(cut -d' ' -f1 <<<"$listed")
if [ $# -gt 0 ]; then switches=("$@"); else switches=("${known[@]}"); fi
# Programs refuse a switch that they do not know, which would look as if their tests had noticed it.
mapfile -t tabled < <(awk 'NF { print $1 }' <<<"$programs_switches")
for switch in "${switches[@]}" "${tabled[@]}"; do
  if [[ " ${known[*]} " != *" $switch "* ]]; then fail "there is no switch $switch; there are: ${known[*]}"; fi
done
# Whether a switch breaks the engine, and the filters of those that break the programs.
breaks_engine="" filters=()
for switch in "${switches[@]}"; do
  filter="$(filter_of "$switch")"
  if [ -n "$filter" ]; then filters+=("$filter"); else breaks_engine=yes; fi
done
if [ -n "$breaks_engine" ]; then
  cargo test --release --locked -p kerolox-log -p kerolox-store \
    --features kerolox-log/sabotage,kerolox-store/sabotage --no-run --message-format=json \
    | sed -n 's/.*"name":"\([^"]*\)","src_path":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3/p' >"$logs/programs"
  cargo build --release --locked -p kerolox-sim --features sabotage
fi
if [ ${#filters[@]} -gt 0 ]; then
  cargo build --release --locked -p kerolox-broker -p kerolox-nameserver \
    --features kerolox-broker/sabotage,kerolox-nameserver/sabotage --bins
  # The tests start the programs that lie beside them.
  e2e="$(cargo test --release --locked -p kerolox-tests --test e2e --no-run --message-format=json \
    | sed -n 's/.*"name":"e2e".*"executable":"\([^"]*\)".*/\1/p')"
fi

# Runs those tests under a switch, and prints the names of those that fail.
noticed_by_programs() { # SWITCH FILTER
  local names
  if (cd tests && KEROLOX_SABOTAGE="$1" timeout "$programs_patience" "$e2e" "$2") >"$logs/output" 2>&1 </dev/null; then
    # A filter that no test has the name of notices nothing.
    if [ -n "$1" ] || grep -q '^test .* ok$' "$logs/output"; then return; fi
  fi
  cp "$logs/output" "$logs/failed"
  names="$(sed -n 's/^test \(.*\) \.\.\. FAILED$/e2e::\1/p' "$logs/output" | tr '\n' ' ')"
  if [ -z "$names" ]; then names="e2e::$2(hangs, or there is no such test) "; fi
  printf '%s' "$names"
}

# Runs a program under a switch, and prints its name if it fails, and after how many seconds. Without a switch it may take
# any time, which is noted.
check() { # SWITCH NAME FOLDER COMMAND...
  local switch="$1" name="$2" dir="$3" code=0 start=$SECONDS limit=0 how=""
  shift 3
  if [ -n "$switch" ]; then limit=$((patience + patience_times * $(<"$logs/$name.seconds"))); fi
  (cd "$dir" && KEROLOX_SABOTAGE="$switch" PROPTEST_CASES=300 PROPTEST_DISABLE_FAILURE_PERSISTENCE=true timeout "$limit" "$@") >"$logs/output" 2>&1 </dev/null \
    || code=$?
  if [ -z "$switch" ]; then echo $((SECONDS - start)) >"$logs/$name.seconds"; fi
  if [ "$code" = 0 ]; then return; fi
  cp "$logs/output" "$logs/failed"
  if [ "$code" = 124 ]; then how="hangs, "; fi
  printf '%s' "$name ($how$((SECONDS - start)) s) "
}

# The test programs that a switch of the engine is put under: a name, a folder and a command a line, in the order that they
# are run in.
engine_suites() {
  local name path program dir
  while read -r name path program; do
    case "$path" in
      */examples/*) continue ;; # no test
      */broker/log/*) dir=broker/log ;;
      */broker/store/*) dir=broker/store ;;
      *) continue ;;
    esac
    echo "${dir#broker/}::$name $dir $program --quiet"
  done <"$logs/programs"
  echo "powercut . $powercut ${powercut_flags[*]}"
  echo "sim . $sim ${sim_flags[*]}"
}

# Those, the quickest first.
quickest_first() {
  local name rest
  while read -r name rest; do
    echo "$(<"$logs/$name.seconds") $name $rest"
  done < <(engine_suites) | sort --stable -n -k1,1 | cut -d' ' -f2-
}

# Runs test programs under a switch and prints the names of those that fail: of the first only, unless all are asked for.
noticed_by() { # SWITCH
  local name dir command this by=""
  while read -r name dir command; do
    # shellcheck disable=SC2086 # The command has flags.
    this="$(check "$1" "$name" "$dir" $command)"
    # What a busy machine did to a suite does not happen twice.
    # shellcheck disable=SC2086
    if [ -n "$1" ] && [ -n "$this" ] && [ -z "$(check "$1" "$name" "$dir" $command)" ]; then this=""; fi
    by+="$this"
    if [ -n "$by" ] && [ -n "$first_only" ]; then break; fi
  done < <(if [ -n "$1" ]; then quickest_first; else engine_suites; fi)
  printf '%s' "$by"
}

say "Without sabotage everything passes"
failing=""
if [ -n "$breaks_engine" ]; then failing="$(noticed_by '')"; fi
for filter in "${filters[@]}"; do
  failing+="$(noticed_by_programs '' "$filter")"
done
if [ -n "$failing" ]; then
  cat "$logs/failed"
  fail "these fail without sabotage: $failing"
fi

caught=0
for switch in "${switches[@]}"; do
  filter="$(filter_of "$switch")"
  if [ -n "$filter" ]; then by="$(noticed_by_programs "$switch" "$filter")"; else by="$(noticed_by "$switch")"; fi
  if [ -n "$by" ]; then
    caught=$((caught + 1))
    echo "caught  $switch: $by"
  else
    echo "MISSED  $switch: no test fails"
  fi
done
echo "sabotage: ${#switches[@]} switches, $caught caught"
[ "$caught" = "${#switches[@]}" ]
