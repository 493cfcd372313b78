#!/usr/bin/env bash
# Builds Kerolox, starts a nameserver and a broker, and shows transactional messages with the official RocketMQ SDK
# for Python, step by step. Then the servers stay up until Ctrl-C.
#
#   deploy/quickstart.sh [--once] [--data DIR] [--nameserver-port N] [--broker-port N]
#
#   --once               on free ports and in a temporary folder; ends after the demonstration, and exits with 0 only
#                        if every step was really observed
#   --data DIR           keeps logs and messages in DIR; without it a temporary folder is used and removed at the end
#   --nameserver-port N  default 9876; 0 picks a free one
#   --broker-port N      default 8081; 0 picks a free one
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$kerolox_root"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

once=false data="" nameserver_port=9876 broker_port=8081 health=auto
while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=true nameserver_port=0 broker_port=0 health=127.0.0.1:0 ;;
    --data | --nameserver-port | --broker-port)
      [ $# -ge 2 ] || { fail "$1 needs a value" || true; exit 2; }
      case "$1" in
        --data) data="$2" ;;
        --nameserver-port) nameserver_port="$2" ;;
        --broker-port) broker_port="$2" ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

processes=() temporary=""
cleanup() {
  trap - EXIT
  trap '' INT TERM
  local pid
  for pid in ${processes[@]+"${processes[@]}"}; do kill "$pid" 2>/dev/null || true; done
  for pid in ${processes[@]+"${processes[@]}"}; do
    # A clean stop takes a moment; what does not stop within 10 s is killed.
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  if [ -n "$temporary" ]; then rm -rf "$temporary"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

require_free_port() { # NAME FLAG PORT
  [ "$3" = 0 ] || port_is_free "$3" \
    || fail "port $3, which the $1 wants, is taken: choose another one with $2 N (0 picks a free one)"
}

# Starts a server and waits for its line "... listening on HOST:PORT"; the address ends up in $address.
start_server() { # NAME COMMAND...
  local name="$1" out="$data/$1.out" log="$data/$1.log"
  shift
  : >"$out"
  "$@" >"$out" 2>>"$log" </dev/null &
  processes+=($!)
  for _ in $(seq 300); do
    address="$(sed -n 's/.*listening on //p' "$out")"
    if [ -n "$address" ]; then
      say "$(cat "$out")   (log: $log)"
      return 0
    fi
    kill -0 "$!" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 30 "$log" >&2
  fail "the $name did not start; its log above says why"
}

say "1. What has to be on this machine"
setup_build
setup_python

say "2. Building the programs (the first time this takes some minutes)"
cargo build --release --locked --bins
bin="$CARGO_TARGET_DIR/release"

say "3. Starting a nameserver and a broker"
require_free_port nameserver --nameserver-port "$nameserver_port"
require_free_port broker --broker-port "$broker_port"
if [ -z "$data" ]; then
  temporary="$(mktemp -d "${TMPDIR:-/tmp}/kerolox-quickstart.XXXXXX")"
  data="$temporary"
fi
mkdir -p "$data"
data="$(cd "$data" && pwd)"
start_server nameserver "$bin/nameserver" --listen "127.0.0.1:$nameserver_port" --data "$data/nameserver" \
  --health-listen "$health"
nameserver="$address"
# Check-backs come after 2 s here, to keep the tour short; the defaults are RocketMQ's 6 s and 30 s.
start_server broker "$bin/broker" --cluster DefaultCluster --group broker-a --nameserver "$nameserver" \
  --listen "127.0.0.1:$broker_port" --data "$data/broker" --health-listen "$health" \
  --transaction-first-check 2s --transaction-check-interval 2s
broker="$address"

mqadmin() {
  echo "  \$ mqadmin $*"
  "$bin/mqadmin" "$@" | sed 's/^/    /'
}

say "4. Creating topics and a consumer group with the admin tool"
mqadmin updateTopic -n "$nameserver" -c DefaultCluster -t orders -a +message.type=TRANSACTION -r 4 -w 4
mqadmin updateTopic -n "$nameserver" -c DefaultCluster -t greetings -r 4 -w 4
mqadmin updateSubGroup -n "$nameserver" -c DefaultCluster -g shipping
mqadmin topicList -n "$nameserver"

say "5. Transactions with the official RocketMQ SDK for Python (deploy/demo/transactions.py)"
# The SDK writes its own log below the home directory: give it one in the data folder.
mkdir -p "$data/home"
HOME="$data/home" "$KEROLOX_PYTHON" deploy/demo/transactions.py "$nameserver" orders shipping </dev/null

if $once; then
  say "Every step was observed."
  exit 0
fi

cat <<END

==> Everything above really happened. The servers stay up until Ctrl-C; try:

  export PATH="$bin:\$PATH" NS=$nameserver
  mqadmin clusterList -n \$NS
  mqadmin topicStatus -n \$NS -t orders
  mqadmin sendMessage -n \$NS -t greetings -p "hello"
  $KEROLOX_PYTHON deploy/demo/consume.py \$NS greetings readers      (in a second terminal)
  $KEROLOX_PYTHON deploy/demo/produce.py \$NS greetings hello again

  Any RocketMQ 5 SDK works with the endpoint $nameserver or $broker, plaintext or TLS.
  Logs and messages: $data
END
# Ends when a server does, which it should not by itself.
wait -n "${processes[@]}" || true
fail "a server ended; see the logs in $data"
