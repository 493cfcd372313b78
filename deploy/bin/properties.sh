# Reading RocketMQ's files of properties; sourced by the scripts beside it.

note() { echo "note: $*" >&2; }

# Gives each property of a file to `take KEY VALUE`, and says which it took and which it did not.
read_properties() { # FILE
  [ -r "$1" ] || {
    echo "error: cannot read $1" >&2
    exit 2
  }
  taken="" left=""
  while IFS= read -r line || [ -n "$line" ]; do
    line="$(printf '%s' "$line" | tr -d '\r' | sed 's/^[[:space:]]*//; s/[[:space:]]*$//')"
    case "$line" in "" | "#"* | "!"*) continue ;; esac
    key="$(printf '%s' "${line%%=*}" | sed 's/[[:space:]]*$//')"
    value="$(printf '%s' "${line#*=}" | sed 's/^[[:space:]]*//')"
    if take "$key" "$value"; then taken="$taken $key"; else left="$left $key"; fi
  done <"$1"
  note "taken from $1:${taken:- nothing}"
  [ -z "$left" ] || note "of no meaning here:$left"
}
