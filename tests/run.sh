#!/usr/bin/env bash
# Runs the tests against the real programs:
#
#   tests/run.sh                      everything
#   tests/run.sh unit                 tests inside the crates
#   tests/run.sh e2e [FILTER] [flags] the Rust client and mqadmin against real processes; flags of Rust's test harness
#   tests/run.sh sdk [--python|--nodejs|--rust|--java|--go [flags]]
#                                     the official RocketMQ SDKs against real processes, or one of them, with flags of
#                                     pytest, `node --test`, Rust's test harness, Maven (-Dtest=LiteTest) or `go test`.
#                                     All of it runs on one broker group; without flags, sending, receiving, order, delays,
#                                     lite topics and transactions once more on two. KEROLOX_SDK_GROUPS=2 runs the
#                                     selected tests on two
#   tests/run.sh conformance [FILTER] [--long]
#                                     75 requirements of SDKs on a server, call by call, over plaintext and TLS; --long adds
#                                     those that take minutes
#   tests/run.sh crash [--rounds N] [--seed S]
#                                     kill -9 of a broker under writing clients, again and again
#   tests/run.sh transactions [--rounds N] [--seed S]
#                                     kill -9 of a broker and of producers that commit, roll back or never decide
#   tests/run.sh money [--rounds N] [--seed S]
#                                     kill -9 of sender, receiver and broker of the example that moves money between two
#                                     databases, at each step and at random moments; then no cent may be lost or created
#   tests/run.sh client [--rounds N] [--seed S]
#                                     the Rust client: its examples, kills, restarts, drains and failovers
#                                     under its producers and consumers, and Apache's own servers with it
#   tests/run.sh cli [--messages N]   every command of mqadmin against two broker groups with slaves, its terminal view, export and
#                                     import of 100,000 messages with interruptions, and the scripts under RocketMQ's names
#   tests/run.sh chaos [--rounds N] [--seed S] [--only FAULT] [--folder DIR]
#                                     kills, pauses, network cuts, full and lost disks in a replicated group, under clients
#                                     of Rust and of the official SDK for Python; needs root
#   tests/run.sh hostile [--long] [--only WORDS]
#                                     attacks on a broker that the kernel holds to 256 MiB and 1,024 open files, alone and in a
#                                     group of three, beside a quiet client, on a full disk and while the index is made;
#                                     needs root
#   tests/run.sh manual [PAGE...]     builds the manual in deploy/manual, follows its links, and runs the programs of its pages, or of the
#                                     pages with one of these words in their path, against real processes
#   tests/run.sh powercut [--seeds N] [--seed S] [--trace]
#                                     power cuts of a simulated machine under the real storage engine
#   tests/run.sh powercut --real N [--seed S] [--sabotage SWITCH]
#                                     real power cuts of a file system under a real broker; needs root and loop devices,
#                                     not part of "everything"
#   tests/run.sh sim [--seeds N] [--seed S] [-v]
#                                     a simulated cluster of masters, slaves and controllers with everything that can go wrong;
#                                     -v prints what happens in one seed
#   tests/run.sh sabotage [--all-suites] [SWITCH...]
#                                     breaks the engine and the programs on purpose, one switch at a time, and demands that a
#                                     test fails (many minutes; not part of "everything")
#   tests/run.sh bench [flags]        measures the storage engine against plain writes and reads (minutes; not part of
#                                     "everything"); --quick, --only GROUPS, --json FILE, --big N, --help
#   tests/run.sh race [--peer PEER] [--leg LEG] [--flush sync|async] [--repeats N] [--seconds S] [--json FILE]
#                                     races Kerolox against Apache Kafka and Apache RocketMQ, leg by leg, one server at a time, with
#                                     the best clients of each (hours; not part of "everything"); --alone runs Kerolox
#                                     only, `race page FILE` makes the manual's page; --help
#   tests/run.sh figures              prints start time, memory, rates, and the costs of delivery, of a million timers and lite
#                                     topics, of slaves and of the Rust client (minutes); not part of "everything"
#   tests/run.sh evidence             writes the evidence page of the manual from the records of all runs before
#
# Each suite ends with one line that sums up its figures; the run ends with "N passed, M failed". When a suite fails, the
# logs of its servers and clients are kept, and their folder is named.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"
cd "$kerolox_root"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

suites=(unit e2e conformance sdk client cli manual crash transactions money chaos hostile powercut sim)
if [ $# -gt 0 ]; then
  case "$1" in
    unit | e2e | conformance | sdk | client | cli | manual | crash | transactions | money | chaos | hostile | powercut | sim | sabotage | bench | race | figures | evidence) suites=("$1"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
fi

passed=0 failed=0 lanes=()
output="$(mktemp -d "${TMPDIR:-/tmp}/kerolox-tests.XXXXXX")"
mkdir "$output/tmp" "$output/logs"
running=""
cleanup() {
  trap - EXIT
  trap '' INT TERM
  # A suite runs in a process group of its own, so that nothing it started survives an interruption.
  if [ -n "$running" ]; then
    kill -TERM -- "-$running" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 -- "-$running" 2>/dev/null || break; sleep 0.1; done
    kill -KILL -- "-$running" 2>/dev/null || true
  fi
  # Each lane cleans up behind itself.
  if [ ${#lanes[@]} -gt 0 ]; then
    kill "${lanes[@]}" 2>/dev/null || true
    wait "${lanes[@]}" 2>/dev/null || true
  fi
  rm -rf "$output"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command, shows its output and keeps it in $output/last, and with that of the suite's other commands in
# $output/whole; returns the command's exit code. Its temporary files go where cleanup removes them. As a part of
# everything it fails when it stands still: a suite takes minutes, and half an hour only where all has to be compiled first.
run() {
  echo 1 >"$output/code"
  set -m
  { TMPDIR="$output/tmp" KEROLOX_LOGS="$output/logs" "$@" </dev/null 2>&1 && echo 0 >"$output/code"; } | tee -a "$output/whole" | tee "$output/last" &
  local last=$! watcher=""
  running="$(jobs -p %%)"
  set +m
  if [ "${#suites[@]}" != 1 ]; then watch_over "$running" & watcher=$!; fi
  wait "$last" || true
  running=""
  [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
  return "$(cat "$output/code")"
}

# Ends a process group that has not ended by itself after half an hour.
watch_over() { # GROUP
  trap 'kill $! 2>/dev/null; exit 0' TERM
  # It must not hold up the reader of this script's output.
  sleep 1800 >/dev/null 2>&1 &
  wait $!
  echo "error: no end after half an hour" >&2
  kill -KILL -- "-$1"
}

# Adds up lines like "test result: ok. 7 passed; 0 failed;" or "sdk: 7 passed, 0 failed".
count() { # PATTERN
  sed -n "s/$1/\\1/p" "$output/last" | awk '{ sum += $1 } END { print sum + 0 }'
}

# Ends a suite: one line of figures, and the totals. A suite that fails without a failed test counts as one failure.
finish() { # SUITE PASSED FAILED EXIT-CODE SECONDS
  local suite_failed="$3"
  if [ "$4" != 0 ] && [ "$3" = 0 ]; then suite_failed=1; fi
  passed=$((passed + $2)) failed=$((failed + suite_failed))
  echo "suite $1: $2 passed, $suite_failed failed, $5 s"
  echo "$5 $1" >>"$output/times"
  # Without it there is no record, which is no reason to fail.
  "$CARGO_TARGET_DIR/release/xtask" record "$1" "$output/whole" --failed "$suite_failed" --seconds "$5" || true
  if [ "$suite_failed" != 0 ]; then keep_logs "$1"; fi
  rm -rf "$output/logs" "$output/whole"
  mkdir "$output/logs"
}

# Moves the logs of a suite that failed to where they outlive this run.
keep_logs() { # SUITE
  : "${kept:=$(mktemp -d "${TMPDIR:-/tmp}/kerolox-failed.XXXXXX")}"
  mv "$output/logs" "$kept/${1// /-}"
  cp "$output/whole" "$kept/${1// /-}/output.txt"
  echo "suite $1: logs of its servers and clients are in $kept/${1// /-}"
}

unit_suite() {
  local code=0 start=$SECONDS
  run cargo test --release --locked --workspace --no-fail-fast "$@" || code=$?
  finish unit "$(count '^test result: [^.]*\. \([0-9]*\) passed.*')" \
    "$(count '^test result: .* \([0-9]*\) failed;.*')" "$code" $((SECONDS - start))
}

# The tests mostly wait, so many run at a time, and not so many that they stand in each other's way. Rust's test harness tells how long each
# test takes if it believes to be a nightly one; as the runner's variable, that leaves the build alone.
e2e_suite() {
  local code=0 start=$SECONDS triple runner
  triple="$(rustc -vV | sed -n 's/^host: //p')"
  runner="CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_RUNNER"
  run env RUST_TEST_THREADS="${RUST_TEST_THREADS:-20}" "$runner=env RUSTC_BOOTSTRAP=1" \
    cargo test --release --locked --workspace --test e2e -- -Z unstable-options --report-time "$@" || code=$?
  echo "slowest: $(sed -n 's/^test \(.*\) \.\.\. [a-zA-Z]* <\([0-9.]*\)s>$/\2 s \1/p' "$output/last" \
    | sort -rn | head -5 | paste -sd, | sed 's/,/, /g')"
  finish e2e "$(count '^test result: [^.]*\. \([0-9]*\) passed.*')" \
    "$(count '^test result: .* \([0-9]*\) failed;.*')" "$code" $((SECONDS - start))
}

conformance_suite() {
  local code=0 start=$SECONDS
  run cargo test --release --locked --workspace --test conformance -- "$@" || code=$?
  finish conformance "$(count '^conformance: \([0-9]*\) lines hold.*')" \
    "$(count '^conformance: .* hold, \([0-9]*\) fail.*')" "$code" $((SECONDS - start))
}

sdk_suite() {
  local sdks=(python nodejs rust java go) sdk pass passes=(${KEROLOX_SDK_PASSES:-})
  if [ "${#suites[@]}" != 1 ]; then
    sdk_lanes
    return
  fi
  case "${1:-}" in
    --python | --nodejs | --rust | --java | --go) sdks=("${1#--}"); shift ;;
    ?*) usage >&2; exit 2 ;;
  esac
  export KEROLOX_BIN="$CARGO_TARGET_DIR/release" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
  export KEROLOX_SDK_GROUPS="${KEROLOX_SDK_GROUPS:-1}"
  if [ $# != 0 ] || [ "$KEROLOX_SDK_GROUPS" != 1 ]; then
    for sdk in "${sdks[@]}"; do "sdk_$sdk" "$@"; done
    return
  fi
  # A pass is an SDK, and on how many broker groups it is tested.
  if [ "${#passes[@]}" = 0 ]; then passes=("${sdks[@]/%/:1}" "${sdks[@]/%/:2}"); fi
  for pass in "${passes[@]}"; do
    KEROLOX_SDK_GROUPS="${pass#*:}"
    if [ "$KEROLOX_SDK_GROUPS" = 1 ]; then "sdk_${pass%:*}"; else "two_groups_${pass%:*}"; fi
  done
}

# The tests of an SDK mostly wait, so as a part of everything two SDKs are tested at a time. With a third one those for Java, which
# start many clusters at once, miss deadlines on two cores.
sdk_lanes() {
  local lane number good bad
  for lane in "python:1 java:2 go:2 rust:2" "python:2 nodejs:1 nodejs:2 java:1 go:1 rust:1"; do
    KEROLOX_SDK_PASSES="$lane" timeout 2400 tests/run.sh sdk >"$output/lane-${#lanes[@]}" 2>&1 </dev/null &
    lanes+=($!)
  done
  for number in "${!lanes[@]}"; do
    wait "${lanes[$number]}" || true
    cat "$output/lane-$number"
    sed -n 's/^suite \(.*\): .*, \([0-9]*\) s$/\2 \1/p' "$output/lane-$number" >>"$output/times"
    good="$(sed -n '$s/^\([0-9]*\) passed, .*/\1/p' "$output/lane-$number")"
    bad="$(sed -n '$s/.* passed, \([0-9]*\) failed$/\1/p' "$output/lane-$number")"
    # A lane that ends without its line did not end well.
    passed=$((passed + ${good:-0})) failed=$((failed + ${bad:-1}))
  done
  lanes=()
}

# What several broker groups make a difference to. The rest is the same, or needs one group or broker that it names.
two_groups_python() {
  sdk_python -k 'test_normal or test_transactions or test_lite or test_scheduled and not administrator'
}
two_groups_nodejs() { KEROLOX_SDK_PARTS="messages push fifo lite scheduled filters transactions" sdk_nodejs; }
two_groups_rust() { sdk_rust messages:: fifo:: filters:: scheduled:: transactions::; }
two_groups_java() { sdk_java -Dtest='MessagesTest,PushTest,FifoTest,ScheduledTest,FiltersTest,TransactionsTest,LiteTest#a_lite_push*+two_lite*'; }
two_groups_go() {
  sdk_go -run 'Message|Acknowledgement|Group|Duration|Push|TestTwoLite|Select|Committed|RolledBack|CheckBack|Another' \
    -skip 'Killed|Rolling|Outlives|DeadLetter|Refused|Priorit|Suspended|OfAnotherType'
}

# Names a pass of an SDK.
sdk_pass() { # SDK
  case "$KEROLOX_SDK_GROUPS" in
    1) echo "sdk $1" ;;
    *) echo "sdk $1 on $KEROLOX_SDK_GROUPS groups" ;;
  esac
}

sdk_python() {
  local code=0 start=$SECONDS
  setup_python
  run "$KEROLOX_BIN/with_cluster" \
    "$KEROLOX_PYTHON" -m pytest -p no:cacheprovider -v --tb=short "$@" tests/sdk/python || code=$?
  finish "$(sdk_pass python)" "$(count '^sdk python: \([0-9]*\) passed.*')" \
    "$(count '^sdk python: [0-9]* passed, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

sdk_nodejs() {
  local code=0 start=$SECONDS
  setup_nodejs
  # The SDK writes a log below the home directory: keep it out of the user's.
  mkdir -p "$output/logs/home"
  run env HOME="$output/logs/home" NODE_PATH="$KEROLOX_NODE_MODULES" "$KEROLOX_BIN/with_cluster" \
    node --test --test-reporter "$PWD/tests/sdk/nodejs/reporter.js" "$@" tests/sdk/nodejs/suite.js || code=$?
  finish "$(sdk_pass nodejs)" "$(count '^sdk nodejs: \([0-9]*\) passed.*')" \
    "$(count '^sdk nodejs: [0-9]* passed, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

# The crate brings 250 packages of its own; they are compiled once, beside the build results of this workspace.
sdk_rust() {
  local code=0 start=$SECONDS
  run env CARGO_TARGET_DIR="$CARGO_TARGET_DIR-sdk" RUST_TEST_THREADS="${RUST_TEST_THREADS:-32}" \
    "$KEROLOX_BIN/with_cluster" \
    cargo test --release --locked --manifest-path tests/sdk/rust/Cargo.toml --test suite -- "$@" || code=$?
  finish "$(sdk_pass rust)" "$(count '^test result: [^.]*\. \([0-9]*\) passed.*')" \
    "$(count '^test result: .* \([0-9]*\) failed;.*')" "$code" $((SECONDS - start))
}

# The tests are compiled with each run, in seconds.
sdk_java() {
  local code=0 start=$SECONDS
  setup_java
  run "$KEROLOX_BIN/with_cluster" \
    mvn -B -q -o -Dstyle.color=never -f tests/sdk/java/pom.xml -Dmaven.repo.local="$KEROLOX_MAVEN_REPOSITORY" \
    -Dkerolox.build="$output/java" -Dkerolox.logs="$output/logs/client" test "$@" || code=$?
  finish "$(sdk_pass java)" "$(count '^sdk java: \([0-9]*\) passed.*')" \
    "$(count '^sdk java: [0-9]* passed, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

# Go runs as many tests of a package at the same time as it is told to; these mostly wait. The SDK has names with dots
# for its environment variables, and writes a log below the home directory without them.
sdk_go() {
  local code=0 start=$SECONDS
  setup_go
  run env "GOMODCACHE=$KEROLOX_GO/modules" "GOCACHE=$KEROLOX_GO/build" GOPROXY=off \
    "rocketmq.client.logRoot=$output/logs/client" rocketmq.client.logLevel=warn \
    "$KEROLOX_BIN/with_cluster" go -C tests/sdk/go test -count=1 -parallel 128 -timeout 5m "$@" || code=$?
  finish "$(sdk_pass go)" "$(count '^sdk go: \([0-9]*\) passed.*')" \
    "$(count '^sdk go: [0-9]* passed, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

client_suite() {
  local code=0 start=$SECONDS good bad
  cargo build --release --locked --workspace --examples
  run "$CARGO_TARGET_DIR/release/client" "$@" || code=$?
  good="$(count '^client: .*: \([0-9]*\) passed.*')" bad="$(count '^client: .*, \([0-9]*\) failed$')"
  setup_apache
  # The proxy in the broker, and apart from it.
  run python3 tests/apache/with_apache.py "$CARGO_TARGET_DIR/release/apache" || code=$?
  good=$((good + $(count '^apache: .*: \([0-9]*\) passed.*'))) bad=$((bad + $(count '^apache: .*, \([0-9]*\) failed$')))
  run python3 tests/apache/with_apache.py --cluster "$CARGO_TARGET_DIR/release/apache" || code=$?
  finish client $((good + $(count '^apache: .*: \([0-9]*\) passed.*'))) \
    $((bad + $(count '^apache: .*, \([0-9]*\) failed$'))) "$code" $((SECONDS - start))
}

crash_suite() {
  local code=0 start=$SECONDS
  run "$CARGO_TARGET_DIR/release/crash" "$@" || code=$?
  finish crash "$(count '^crash: .*: \([0-9]*\) passed.*')" \
    "$(count '^crash: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

transactions_suite() {
  local code=0 start=$SECONDS
  run "$CARGO_TARGET_DIR/release/transactions" "$@" || code=$?
  finish transactions "$(count '^transactions: .*: \([0-9]*\) passed.*')" \
    "$(count '^transactions: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

money_suite() {
  local code=0 start=$SECONDS
  cargo build --release --locked --workspace --example money
  run "$CARGO_TARGET_DIR/release/money" "$@" || code=$?
  finish money "$(count '^money: .*: \([0-9]*\) passed.*')" \
    "$(count '^money: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

cli_suite() {
  local code=0 start=$SECONDS good bad
  setup_terminal
  run tests/cli/scripts.sh || code=$?
  good="$(count '^scripts: \([0-9]*\) passed.*')" bad="$(count '^scripts: .*, \([0-9]*\) failed$')"
  run "$CARGO_TARGET_DIR/release/cli" "$@" || code=$?
  finish cli $((good + $(count '^cli: .*: \([0-9]*\) passed.*'))) \
    $((bad + $(count '^cli: .*, \([0-9]*\) failed$'))) "$code" $((SECONDS - start))
}

manual_suite() {
  local code=0 start=$SECONDS program="$CARGO_TARGET_DIR/release/kerolox-manual"
  setup_python
  setup_java
  setup_go
  run "$program" check || code=$?
  if [ "$code" = 0 ]; then run "$program" run "$@" || code=$?; fi
  finish manual "$(count '^manual: .*: \([0-9]*\) passed.*')" \
    "$(count '^manual: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

chaos_suite() {
  local code=0 start=$SECONDS
  setup_python
  run "$CARGO_TARGET_DIR/release/chaos" --python "$KEROLOX_PYTHON" "$@" || code=$?
  finish chaos "$(count '^chaos: .*: \([0-9]*\) passed.*')" \
    "$(count '^chaos: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

hostile_suite() {
  local code=0 start=$SECONDS
  run "$CARGO_TARGET_DIR/release/hostile" "$@" || code=$?
  finish hostile "$(count '^hostile: .*: \([0-9]*\) passed.*')" \
    "$(count '^hostile: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

powercut_suite() {
  local code=0 start=$SECONDS program=("$CARGO_TARGET_DIR/release/powercut")
  if [ "${1:-}" = --real ]; then
    shift
    program=(tests/powercut/real.sh)
  fi
  # As a part of everything the seeds are always the same: a change is judged by itself, and fresh seeds look for the rest.
  [ "${#suites[@]}" = 1 ] || set -- --seeds 1500 --seed 1
  run "${program[@]}" "$@" || code=$?
  finish powercut "$(count '^powercut: .*: \([0-9]*\) passed.*')" \
    "$(count '^powercut: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

sim_suite() {
  local code=0 start=$SECONDS
  [ "${#suites[@]}" = 1 ] || set -- --seeds 300 --seed 1
  run "$CARGO_TARGET_DIR/release/sim" "$@" || code=$?
  finish sim "$(count '^sim: .*: \([0-9]*\) passed.*')" \
    "$(count '^sim: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

sabotage_suite() {
  local code=0 start=$SECONDS
  run tests/sabotage.sh "$@" || code=$?
  finish sabotage "$(count '^sabotage: [0-9]* switches, \([0-9]*\) caught$')" \
    0 "$code" $((SECONDS - start))
}

# An aim that is missed counts as a failure.
bench_suite() {
  local code=0 start=$SECONDS
  run "$CARGO_TARGET_DIR/release/bench" "$@" || code=$?
  finish bench "$(count '^bench: .*: \([0-9]*\) aims met.*')" \
    "$(count '^bench: .* met, \([0-9]*\) missed$')" "$code" $((SECONDS - start))
}

# Only the peers that are asked for are installed.
race_suite() {
  local code=0 start=$SECONDS
  case " $* " in
    *" --alone "* | *" page "* | *" --help "* | *" -h "*) ;;
    *" --peer kafka "* | *" --peer=kafka "*) setup_race_kafka ;;
    *" --peer rocketmq "* | *" --peer=rocketmq "*) setup_race_rocketmq ;;
    *) setup_race_kafka; setup_race_rocketmq ;;
  esac
  run env KEROLOX_RACE_JSON="$kerolox_cache/race.json" "$CARGO_TARGET_DIR/release/race" "$@" || code=$?
  finish race "$(count '^race: .*: \([0-9]*\) passed.*')" \
    "$(count '^race: .*, \([0-9]*\) failed$')" "$code" $((SECONDS - start))
}

figures_suite() {
  local code=0 start=$SECONDS
  setup_python
  run env KEROLOX_BIN="$CARGO_TARGET_DIR/release" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    "$CARGO_TARGET_DIR/release/with_cluster" "$KEROLOX_PYTHON" tests/sdk/python/figures.py "$@" || code=$?
  local shown; shown="$(count '^figures: \([0-9]*\) passed.*')"
  local program
  for program in delivery lateness lite halves replicas client_rate; do
    if run "$CARGO_TARGET_DIR/release/$program"; then shown=$((shown + 1)); else code=1; fi
  done
  finish figures "$shown" 0 "$code" $((SECONDS - start))
}

evidence_suite() { cargo xtask evidence; }

setup_build
# The simulations need neither RocksDB nor the programs, and the benchmarks no programs.
case "${suites[*]}" in
  powercut)
    packages=(-p kerolox-powercut -p kerolox-xtask)
    if [ "${1:-}" = --real ]; then packages=(-p kerolox-broker -p kerolox-tests); fi
    ;;
  sim) packages=(-p kerolox-sim -p kerolox-xtask) ;;
  bench) packages=(-p kerolox-bench -p kerolox-xtask) ;;
  race) packages=(-p kerolox-broker -p kerolox-race -p kerolox-xtask) ;;
  sabotage) packages=(-p kerolox-xtask) ;;
  evidence) packages=() ;;
  *) packages=(--workspace) ;;
esac
if [ ${#packages[@]} -gt 0 ]; then
  say "Building"
  cargo build --release --locked "${packages[@]}" --bins
fi
for suite in "${suites[@]}"; do
  say "Suite $suite"
  "${suite}_suite" "$@"
done
if [ "${#suites[@]}" != 1 ]; then
  echo "time by suite: $(sort -rn "$output/times" | awk '{ time = $1; $1 = ""; printf "%s%s %d s", sep, substr($0, 2), time; sep = ", " }')"
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
