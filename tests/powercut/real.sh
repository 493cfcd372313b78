#!/usr/bin/env bash
# Real power cuts: a broker on an ext4 file system in an image file, clients that write, and again and again, at a random
# moment, kill -9 of the broker and a shutdown of the file system that loses what was not synced:
#
#   tests/powercut/real.sh N [--seed S] [--sabotage SWITCH]
#
# Afterwards every acknowledged message must be there, once and with its offset, and every transaction as it was decided.
# With --sabotage the broker is broken on purpose (a switch of broker/log/src/sabotage.rs), and that must be noticed.
# Needs root, loop devices and the shutdown call of ext4. The programs must be built; `tests/run.sh powercut --real N` does
# that and runs this.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../../deploy/setup.sh"
cd "$kerolox_root"
. deploy/env.sh

cuts="${1:?usage: tests/powercut/real.sh N [--seed S] [--sabotage SWITCH]}"
shift
[[ "$cuts" =~ ^[1-9][0-9]*$ ]] || fail "--real $cuts: how many power cuts? Give a number above 0"
flags=() switch=""
while [ $# -gt 0 ]; do
  case "$1" in
    --seed) flags+=(--seed "${2:?--seed needs a number}"); shift 2 ;;
    --sabotage) switch="${2:?--sabotage needs a switch of broker/log/src/sabotage.rs}"; shift 2 ;;
    *) fail "real power cuts do not know $1; there are --seed S and --sabotage SWITCH" ;;
  esac
done

[ "$(id -u)" = 0 ] || fail "real power cuts need root, to mount a file system: run this as root, or without --real"
for tool in mkfs.ext4 e2fsck losetup mount umount python3; do
  command -v "$tool" >/dev/null || fail "real power cuts need $tool, which is not on the PATH"
done
losetup --find >/dev/null || fail "real power cuts need a free loop device; this machine (or container) gives none"

work="$(mktemp -d "${TMPDIR:-/tmp}/kerolox-powercut.XXXXXX")"
image="$work/disk.img" mounted="$work/disk"
mkdir "$mounted" "$work/tmp"
running=""
cleanup() {
  trap - EXIT
  trap '' INT TERM
  # The programs run in a process group of their own: whatever they started goes with them.
  if [ -n "$running" ]; then { kill -KILL -- "-$running"; wait "$running"; } 2>/dev/null || true; fi
  for _ in $(seq 30); do
    mountpoint -q "$mounted" || break
    umount "$mounted" 2>/dev/null || sleep 0.1
  done
  if mountpoint -q "$mounted"; then umount --lazy "$mounted" || true; fi
  # Unmounting frees the loop device, unless it was interrupted.
  losetup --associated "$image" --output NAME --noheadings 2>/dev/null | xargs --no-run-if-empty losetup --detach || true
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The image is sparse: it takes as much room as is written to it, not its full size.
truncate --size "$((512 + 16 * cuts))M" "$image"
mkfs.ext4 -q -F "$image"
mount -o loop "$image" "$mounted" || fail "cannot mount an image on a loop device; this machine (or container) forbids it"

broker="$CARGO_TARGET_DIR/release/broker"
if [ -n "$switch" ]; then
  say "Building a broker with the feature sabotage"
  cargo build --release --locked -p kerolox-broker --features kerolox-store/sabotage
  cp "$broker" "$work/broker"
  # The one without takes its place again.
  cargo build --release --locked -p kerolox-broker
  broker="$work/broker"
fi

: >"$work/output"
set -m
RUST_LIB_BACKTRACE=0 TMPDIR="$work/tmp" KEROLOX_SABOTAGE="$switch" "$CARGO_TARGET_DIR/release/crash" --rounds "$cuts" "${flags[@]}" \
  --broker "$broker" --disk "$image" --mounted-at "$mounted" </dev/null >"$work/output" 2>&1 &
running=$!
set +m
tail --pid="$running" --lines=+1 --follow "$work/output" | if [ -n "$switch" ]; then sed 's/^/| /'; else cat; fi &
shown=$!
code=0
wait "$running" || code=$?
running=""
wait "$shown" || true

umount "$mounted"
if ! e2fsck -fn "$image" >"$work/fsck" 2>&1; then
  cat "$work/fsck"
  fail "the file system itself is damaged: that is no fault of the broker, and the run proves nothing"
fi
if [ -z "$switch" ]; then exit "$code"; fi
grep -q 'power cut' "$work/output" || fail "no power was cut, so nothing is proved"
if [ "$code" = 0 ]; then
  echo "powercut: $cuts real power cuts did not notice the sabotage $switch: 0 passed, 1 failed"
  exit 1
fi
echo "powercut: the sabotage $switch was noticed: 1 passed, 0 failed"
