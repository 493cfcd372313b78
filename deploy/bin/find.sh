# Where the programs are; sourced by the scripts beside it.
#
# $KEROLOX_BIN names their folder. Without it they are looked for beside the scripts, where an installation has them, where a build leaves them,
# and on the PATH.

find_program() { # NAME
  here="$(cd "$(dirname "$0")" && pwd)"
  cache="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kerolox/target}"
  for folder in "${KEROLOX_BIN:-}" "$here/../libexec" "$here/../../target/release" "$cache/release"; do
    if [ -n "$folder" ] && [ -x "$folder/$1" ]; then
      echo "$folder/$1"
      return 0
    fi
  done
  # This script may have the name of the program, and be on the PATH itself.
  found="$(command -v "$1" || true)"
  if [ -n "$found" ] && [ "$(cd "$(dirname "$found")" && pwd)" != "$here" ]; then
    echo "$found"
    return 0
  fi
  echo "error: there is no program $1; build it (cargo build --release), or set KEROLOX_BIN to its folder" >&2
  exit 127
}
