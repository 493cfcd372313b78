# Build environment of Kerolox; sourced by the scripts, and worth sourcing in a developer's shell: `. deploy/env.sh`.
#
# Prefers the distribution's RocksDB library over compiling the bundled one (about an hour of CPU), and keeps build
# results outside the checkout, where they survive a fresh clone. Everything set here can be overridden beforehand.
# shellcheck shell=bash

: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/kerolox/target}"
export CARGO_TARGET_DIR

# The bindings fit RocksDB 7.8 to 7.10: older ones lack functions, newer ones have dropped some.
kerolox_rocksdb_fits() {
  [ -e /usr/include/rocksdb/c.h ] \
    && grep -Eq '^#define ROCKSDB_MAJOR 7$' /usr/include/rocksdb/version.h \
    && grep -Eq '^#define ROCKSDB_MINOR (8|9|10)$' /usr/include/rocksdb/version.h
}

if [ -z "${ROCKSDB_LIB_DIR:-}" ] && kerolox_rocksdb_fits; then
  for kerolox_dir in "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64 /usr/lib /usr/local/lib; do
    if [ -e "$kerolox_dir/librocksdb.so" ]; then
      export ROCKSDB_LIB_DIR="$kerolox_dir" ROCKSDB_INCLUDE_DIR=/usr/include
      break
    fi
  done
  unset kerolox_dir
fi
unset -f kerolox_rocksdb_fits
