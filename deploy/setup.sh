# What a machine needs to build and test Kerolox, besides Rust, a C++ compiler and Python 3. Sourced by the scripts:
#
#   setup_build    installs the missing system libraries and sets the build environment (env.sh)
#   setup_python   makes the virtual environment with the official Python SDK; sets KEROLOX_PYTHON
#   setup_nodejs   installs Node.js if it is missing, and the official Node.js SDK; sets KEROLOX_NODE_MODULES
#   setup_java     installs a JDK and Maven if they are missing, and the official Java SDK; sets KEROLOX_MAVEN_REPOSITORY
#   setup_apache   installs a JDK and Maven if they are missing, and Apache RocketMQ's own servers; sets KEROLOX_APACHE, the
#                  folder of their jars
#   setup_checkers installs typos and cargo-deny, which `cargo xtask verify` runs; sets KEROLOX_CHECKERS, their folder
#   setup_terminal installs tmux if it is missing, in which terminal views are tested
#   setup_go       installs Go if it is missing or too old, and the official Go SDK; sets KEROLOX_GO, the folder of both
#                  caches of Go
#
# Only missing things are installed, and each step says what it does.
# shellcheck shell=bash

kerolox_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
kerolox_cache="${XDG_CACHE_HOME:-$HOME/.cache}/kerolox"

say() { printf '==> %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  return 1
}

setup_build() {
  command -v cargo >/dev/null || fail "cargo is not on the PATH: install Rust 1.89 or newer"
  command -v c++ >/dev/null || fail "no C++ compiler found: install one (Debian, Ubuntu: apt-get install g++)"
  local missing=()
  has_libclang || missing+=(libclang-dev)
  if ! has_rocksdb && packaged_rocksdb_is_usable; then missing+=(librocksdb-dev); fi
  if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
  # shellcheck source=deploy/env.sh
  . "$kerolox_root/deploy/env.sh"
  if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
    say "No packaged RocksDB on this machine: the bundled one is compiled, once, about an hour of CPU time."
  fi
}

# bindgen, which makes the RocksDB bindings, needs the library and clang's own headers.
has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null \
    || compgen -G '/usr/lib*/libclang*.so*' >/dev/null \
    || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || return 1
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null \
    || compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null
}

# A RocksDB that env.sh will pick up.
has_rocksdb() (
  . "$kerolox_root/deploy/env.sh"
  [ -n "${ROCKSDB_LIB_DIR:-}" ]
)

# Whether the distribution has a RocksDB that the bindings fit (see env.sh): Debian 12 does.
packaged_rocksdb_is_usable() {
  command -v apt-cache >/dev/null || return 1
  local version
  version="$(packaged_rocksdb)"
  if [ -z "$version" ]; then
    # A fresh image has empty package lists.
    update_package_lists || return 1
    version="$(packaged_rocksdb)"
  fi
  [[ "$version" =~ ^7\.(8|9|10)\. ]]
}

packaged_rocksdb() {
  apt-cache policy librocksdb-dev 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '^(none)$' || true
}

# Runs a command as root: directly, or with sudo, which may ask for a password only on a terminal.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
  else
    return 1
  fi
}

update_package_lists() {
  [ -n "${kerolox_lists_updated:-}" ] && return 0
  say "Reading the package lists (apt-get update)"
  as_root apt-get update -qq </dev/null || return 1
  kerolox_lists_updated=1
}

install_packages() {
  command -v apt-get >/dev/null || fail "please install the equivalent of these packages, then run again: $*"
  update_package_lists || fail "cannot run apt-get as root; install these packages, then run again: $*"
  say "Installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" \
    </dev/null >/dev/null || fail "apt-get could not install: $*"
}

# An empty virtual environment of Python in a folder, in place of what was there.
make_venv() { # FOLDER
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
  rm -rf "$1"
  python3 -m venv "$1" || fail "python3 cannot make a virtual environment in $1"
}

setup_python() {
  command -v python3 >/dev/null || fail "python3 is not on the PATH: install Python 3.9 or newer"
  local requirements="$kerolox_root/tests/sdk/python/requirements.txt" venv
  # Named after its requirements: changed requirements make a new environment, unchanged ones cost nothing.
  venv="$kerolox_cache/python-$(cat "$requirements" <(python3 --version) | cksum | cut -d' ' -f1)"
  KEROLOX_PYTHON="$venv/bin/python"
  export KEROLOX_PYTHON
  # The name by which the README and the manual call it.
  mkdir -p "$kerolox_cache"
  ln -sfn "$venv" "$kerolox_cache/python"
  if [ -e "$venv/complete" ]; then return 0; fi
  say "Installing the official RocketMQ SDK for Python into $venv"
  make_venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" </dev/null \
    || fail "pip could not install $requirements"
  touch "$venv/complete"
}

# typos is a Python wheel; cargo-deny is compiled, once.
setup_checkers() {
  local requirements="$kerolox_root/.ci/checkers.txt" folder
  folder="$kerolox_cache/checkers-$(cat "$requirements" <(python3 --version) | cksum | cut -d' ' -f1)"
  KEROLOX_CHECKERS="$folder/bin"
  export KEROLOX_CHECKERS
  if [ -e "$folder/complete" ]; then return 0; fi
  say "Installing typos and cargo-deny into $folder (some minutes)"
  make_venv "$folder"
  local typos deny
  typos="$(sed -n 's/^typos //p' "$requirements")" deny="$(sed -n 's/^cargo-deny //p' "$requirements")"
  "$folder/bin/pip" install --quiet --disable-pip-version-check "typos==$typos" </dev/null \
    || fail "pip could not install typos $typos"
  cargo install --quiet --locked --root "$folder" --target-dir "$folder/build" --version "$deny" \
    --no-default-features --profile dev cargo-deny || fail "cargo could not install cargo-deny $deny"
  rm -rf "$folder/build"
  touch "$folder/complete"
}

setup_terminal() {
  if ! command -v tmux >/dev/null; then install_packages tmux; fi
}

setup_nodejs() {
  local missing=()
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
  node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major > 18 || (major == 18 && minor >= 17) ? 0 : 1)' \
    || fail "node is $(node --version): install Node.js 18.17 or newer"
  local source="$kerolox_root/tests/sdk/nodejs" folder
  folder="$kerolox_cache/nodejs-$(cat "$source/package.json" "$source/package-lock.json" <(node --version) | cksum | cut -d' ' -f1)"
  KEROLOX_NODE_MODULES="$folder/node_modules"
  export KEROLOX_NODE_MODULES
  if [ -e "$folder/complete" ]; then return 0; fi
  say "Installing the official RocketMQ SDK for Node.js into $folder"
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$source/package.json" "$source/package-lock.json" "$folder"
  # Nothing is built: the only install script among the packages prints advice.
  npm --prefix "$folder" ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null \
    || fail "npm could not install what $source/package-lock.json lists"
  touch "$folder/complete"
}

# A JDK and Maven. What Maven says of itself ends up in $maven.
setup_maven() {
  local missing=() version
  command -v javac >/dev/null || missing+=(default-jdk-headless)
  command -v mvn >/dev/null || missing+=(maven)
  if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
  # Without this Maven ends with an escape sequence, even into a file, and the next line would begin with it.
  export MAVEN_OPTS="${MAVEN_OPTS:-} -Djansi.noreset=true"
  # Maven's own choice counts, which JAVA_HOME may have changed.
  maven="$(mvn --version)"
  version="$(sed -n 's/^Java version: \([^,]*\),.*/\1/p' <<<"$maven")"
  [ "${version%%.*}" -ge 17 ] 2>/dev/null || fail "Maven runs with Java ${version:-unknown}: install a JDK 17 or newer"
}

# Puts the jars that a project lists, and those that these need, into FOLDER/jars.
copy_jars() { # POM FOLDER
  rm -rf "$2"
  mkdir -p "$2"
  mvn -B -q -Dstyle.color=never -f "$1" -Dmaven.repo.local="$2/repository" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$2/jars" </dev/null >"$2/log" 2>&1 \
    || { cat "$2/log" >&2; fail "Maven could not install what $1 lists"; return 1; }
  # The jars are copies.
  rm -rf "$2/repository"
}

setup_apache() {
  local maven
  setup_maven
  local source="$kerolox_root/tests/apache" folder
  folder="$kerolox_cache/apache-$(cat "$source/pom.xml" - <<<"$maven" | cksum | cut -d' ' -f1)"
  KEROLOX_APACHE="$folder/jars"
  export KEROLOX_APACHE
  if [ -e "$folder/complete" ]; then return 0; fi
  say "Installing Apache RocketMQ's servers into $folder"
  copy_jars "$source/pom.xml" "$folder" || return 1
  touch "$folder/complete"
}

# Drivers of tests/run.sh race: jars of a peer, and the Java programs that are compiled with them.
setup_race_kafka() {
  KEROLOX_RACE_KAFKA="$kerolox_cache/race-kafka"
  export KEROLOX_RACE_KAFKA
  setup_race_driver kafka KafkaDriver
}

# The servers are those of setup_apache.
setup_race_rocketmq() {
  setup_apache
  KEROLOX_RACE_ROCKETMQ="$kerolox_cache/race-rocketmq"
  export KEROLOX_RACE_ROCKETMQ
  setup_race_driver rocketmq RocketMqDriver ClassicClient
}

setup_race_driver() { # PEER CLASSES
  local maven peer="$1" folder="$kerolox_cache/race-$1" source="$kerolox_root/tests/race" key class files=()
  shift
  setup_maven
  key="$(cat "$source/$peer/pom.xml" - <<<"$maven" | cksum)"
  if [ "$(cat "$folder/jars.key" 2>/dev/null)" != "$key" ]; then
    say "Installing what a race against $peer needs into $folder"
    copy_jars "$source/$peer/pom.xml" "$folder" || return 1
    echo "$key" >"$folder/jars.key"
  fi
  for class in Task Clock Tally Stream "$@"; do files+=("$source/java/kerolox/race/$class.java"); done
  key="$(cat "${files[@]}" | cksum)"
  if [ "$(cat "$folder/classes.key" 2>/dev/null)" = "$key" ]; then return 0; fi
  rm -rf "$folder/classes"
  javac -Xlint:all -Werror -proc:none --release 17 -d "$folder/classes" -cp "$folder/jars/*" "${files[@]}" \
    || fail "javac could not compile the driver of $peer"
  echo "$key" >"$folder/classes.key"
}

setup_java() {
  local maven
  setup_maven
  local source="$kerolox_root/tests/sdk/java" folder
  folder="$kerolox_cache/java-$(cat "$source/pom.xml" - <<<"$maven" | cksum | cut -d' ' -f1)"
  KEROLOX_MAVEN_REPOSITORY="$folder/repository"
  export KEROLOX_MAVEN_REPOSITORY
  if [ -e "$folder/complete" ]; then return 0; fi
  say "Installing the official RocketMQ SDK for Java into $folder"
  rm -rf "$folder"
  mkdir -p "$folder"
  # A run without a test fetches all that a run needs; Surefire decides about a part of it only then.
  mvn -B -q -Dstyle.color=never -f "$source/pom.xml" -Dmaven.repo.local="$KEROLOX_MAVEN_REPOSITORY" \
    -Dkerolox.build="$folder/build" test -Dgroups=none </dev/null >"$folder/log" 2>&1 \
    || { cat "$folder/log" >&2; fail "Maven could not install what $source/pom.xml lists"; }
  touch "$folder/complete"
}

# A Go that is too old for the SDK and cannot or may not fetch a newer one by itself (those since 1.21 can) gets it fetched
# here: Debian 12 has Go 1.19.
setup_go() {
  command -v go >/dev/null || install_packages golang-go
  local source="$kerolox_root/tests/sdk/go" version
  version="$(go_version "$source")"
  if ! go_is_new_enough "$version"; then
    use_newer_go "$version"
    version="$(go_version "$source")"
    go_is_new_enough "$version" || fail "go is still ${version:-unknown}, and the SDK needs Go 1.24 or newer"
  fi
  KEROLOX_GO="$kerolox_cache/go-$(cat "$source/go.mod" "$source/go.sum" - <<<"$version" | cksum | cut -d' ' -f1)"
  export KEROLOX_GO
  if [ -e "$KEROLOX_GO/complete" ]; then return 0; fi
  say "Installing the official RocketMQ SDK for Go into $KEROLOX_GO"
  rm -rf "$KEROLOX_GO"
  mkdir -p "$KEROLOX_GO"
  (cd "$source" && env "GOMODCACHE=$KEROLOX_GO/modules" "GOCACHE=$KEROLOX_GO/build" GOFLAGS=-modcacherw \
    go test -c -o /dev/null . </dev/null >"$KEROLOX_GO/log" 2>&1) \
    || { cat "$KEROLOX_GO/log" >&2; fail "Go could not install what $source/go.mod lists"; }
  touch "$KEROLOX_GO/complete"
}

# What `go` is in a module. An old Go does not understand the file of a newer module, so it is asked elsewhere.
go_version() { # FOLDER
  (cd "$1" && go env GOVERSION 2>/dev/null) || (cd / && go env GOVERSION)
}

go_is_new_enough() { # VERSION
  [[ "$1" =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 24 ]
}

# Go's releases are modules, so any Go can download and check one, from wherever it gets its modules. What the newer ones do
# with it is done here: modules have no executable files, and none with another go.mod inside.
use_newer_go() { # VERSION THAT IS TOO OLD
  local wanted=go1.24.13 platform folder download="$kerolox_cache/toolchain-download"
  platform="$(cd / && go env GOHOSTOS)-$(cd / && go env GOHOSTARCH)"
  folder="$kerolox_cache/$wanted.$platform"
  if [ ! -e "$folder/complete" ]; then
    say "Installing $wanted into $folder, because go is ${1:-unknown} and the SDK needs Go 1.24 or newer"
    remove_modules "$download"
    rm -rf "$folder"
    (cd / && env "GOMODCACHE=$download" GOFLAGS=-modcacherw \
      go mod download "golang.org/toolchain@v0.0.1-$wanted.$platform" </dev/null) \
      || fail "go could not download its release $wanted for $platform"
    mv "$download/golang.org/toolchain@v0.0.1-$wanted.$platform" "$folder"
    remove_modules "$download"
    chmod -R u+w "$folder"
    chmod +x "$folder"/bin/* "$folder"/pkg/tool/*/*
    find "$folder" -name _go.mod -execdir mv _go.mod go.mod ';'
    touch "$folder/complete"
  fi
  export GOROOT="$folder" GOTOOLCHAIN=local PATH="$folder/bin:$PATH"
}

# Folders of downloaded modules can be read-only.
remove_modules() { # FOLDER
  if [ -e "$1" ]; then chmod -R u+w "$1" && rm -rf "$1"; fi
}
