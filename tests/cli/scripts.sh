#!/usr/bin/env bash
# The scripts under RocketMQ's names: they start our programs, read RocketMQ's files, and say what they took of them.
set -euo pipefail
bin="$(cd "$(dirname "$0")/../../deploy/bin" && pwd)"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0

# Runs a command, and looks for texts in what it says.
check() { # NAME TEXT... -- COMMAND...
  local name="$1" texts=() said
  shift
  while [ "$1" != -- ]; do texts+=("$1"); shift; done
  shift
  if ! said="$("$@" 2>&1)"; then
    echo "FAILED  $name: $said"
    failed=$((failed + 1))
    return
  fi
  for text in "${texts[@]}"; do
    if [[ "$said" != *"$text"* ]]; then
      echo "FAILED  $name: no $text in: $said"
      failed=$((failed + 1))
      return
    fi
  done
  echo "ok      $name"
  passed=$((passed + 1))
}

cat >"$folder/broker.conf" <<CONF
# As RocketMQ's own examples have it.
brokerClusterName = DefaultCluster
brokerName=broker-x
brokerId=0
brokerRole=ASYNC_MASTER
flushDiskType = ASYNC_FLUSH
listenPort=10911
namesrvAddr = 10.0.0.1:9876;10.0.0.2:9876
storePathRootDir=$folder/a store
autoCreateTopicEnable=true
transactionTimeOut=6000
fileReservedTime=48
defaultTopicQueueNums=4
maxMessageSize=1048576
CONF
printf 'listenPort=19876\r\n' >"$folder/namesrv.conf"

check "mqadmin" "updateTopic" -- sh "$bin/mqadmin" commands
check "mqadmin without regard to case" "Usage:" -- sh "$bin/mqadmin" CLUSTERLIST --help
check "mqnamesrv" "0.0.0.0:19876" "taken from" listenPort -- sh "$bin/mqnamesrv" -c "$folder/namesrv.conf" -p
check "mqbroker" 'group = "broker-x"' 'listen = "0.0.0.0:10911"' 'flush = "async"' "$folder/a store" "10.0.0.2:9876" \
  'first-check = "6s"' 'time = "2d"' 'default-queues = 4' 'max-body-bytes = "1MiB"' "of no meaning here: brokerId brokerRole" "no proxy to enable" \
  -- sh "$bin/mqbroker" -c "$folder/broker.conf" --enable-proxy -p
check "mqbroker alone" "standalone = true" -- env -u NAMESRV_ADDR sh "$bin/mqbroker" -p
check "mqbroker with a nameserver" '10.0.0.9:9876' -- sh "$bin/mqbroker" -n 10.0.0.9:9876 -p -- --group y
if sh "$bin/mqbroker" -c "$folder/nowhere.conf" -p >/dev/null 2>&1; then
  echo "FAILED  mqbroker with a file that is not there"
  failed=$((failed + 1))
else
  echo "ok      mqbroker with a file that is not there"
  passed=$((passed + 1))
fi

# Under a name of its own, so that no other one is stopped.
program="$(sh -c '. "$1/find.sh"; find_program nameserver' "$bin/x" "$bin")"
mkdir "$folder/bin"
ln "$program" "$folder/bin/nameserver" 2>/dev/null || cp "$program" "$folder/bin/nameserver"
export KEROLOX_BIN="$folder/bin"
printf 'listenPort=0\n' >"$folder/any.conf"
(cd "$folder" && exec sh "$bin/mqnamesrv" -c any.conf -- --health-listen off --data "$folder/ns") >"$folder/ns.log" 2>&1 &
server=$!
for _ in $(seq 100); do
  [ "$(readlink "/proc/$server/exe")" = "$folder/bin/nameserver" ] && break
  sleep 0.1
done
check "mqshutdown" "process $server" stopped -- sh "$bin/mqshutdown" namesrv
if sh "$bin/mqshutdown" namesrv >/dev/null 2>&1; then
  echo "FAILED  mqshutdown of what does not run"
  failed=$((failed + 1))
else
  echo "ok      mqshutdown of what does not run"
  passed=$((passed + 1))
fi
echo "scripts: $passed passed, $failed failed"
[ "$failed" = 0 ]
