//! What stands in for programs that would fetch from the network or write to the real home: small scripts, first on the path of a page.
//!
//! - `python`, `python3`: the Python of the environment that has the official SDK (`KEROLOX_PYTHON`)
//! - `cargo`: `new` and `add` write a manifest; `run` demands that `src/main.rs` is a file of `deploy/manual/programs/rust`, byte by byte,
//!   and starts the program that was built from it
//! - `mvn`: `dependency:copy` copies from the repository that `setup_java` filled (`KEROLOX_MAVEN_REPOSITORY`)
//! - `java`: the real one, with the page's folder as its home
//! - `go`: the real one, which finds modules in the cache that `setup_go` filled (`KEROLOX_GO`); `get` takes what `tests/sdk/go` requires

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kerolox_harness::built_program;

use crate::book;

/// Variables of this process that a page must not see.
const HIDDEN: [&str; 3] = ["KEROLOX_", "NAMESRV_ADDR", "XDG_"];

/// Writes the stand-ins into a folder.
///
/// # Errors
/// When the folder cannot be written, or the programs are not built.
pub(crate) fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    if let Ok(python) = std::env::var("KEROLOX_PYTHON") {
        for name in ["python", "python3"] {
            script(folder, name, &format!("exec '{python}' \"$@\""))?;
        }
    }
    if let Ok(repository) = std::env::var("KEROLOX_MAVEN_REPOSITORY") {
        script(folder, "mvn", &MVN.replace("REPOSITORY", &repository))?;
        script(folder, "java", &format!("exec '{}' -Duser.home=\"$HOME\" \"$@\"", real("java")?.display()))?;
    }
    if std::env::var_os("KEROLOX_GO").is_some() {
        let module = book::root().join("../../tests/sdk/go");
        let go = GO.replace("MODULE", &module.to_string_lossy());
        script(folder, "go", &go.replace("REAL", &real("go")?.to_string_lossy()))?;
    }
    let programs = book::root().join("programs/rust");
    let built = built_program("mqadmin")?.with_file_name("manual-");
    let cargo = CARGO.replace("PROGRAMS", &programs.to_string_lossy());
    script(folder, "cargo", &cargo.replace("BUILT", &built.to_string_lossy()))
}

/// The environment of a page.
///
/// # Errors
/// When the programs are not built.
pub(crate) fn environment(folder: &Path) -> Result<Vec<(String, String)>> {
    let built = built_program("mqadmin")?;
    let built = built.parent().context("the programs are in no folder")?;
    let is_seen = |name: &str| !HIDDEN.iter().any(|hidden| name.starts_with(hidden));
    let mut environment: Vec<_> =
        std::env::vars().filter(|(name, _)| is_seen(name) && name != "PATH").collect();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut set = |name: &str, value: String| environment.push((name.to_owned(), value));
    set("PATH", format!("{}:{}:{path}", folder.display(), built.display()));
    set("PYTHONUNBUFFERED", "1".to_owned());
    set("PYTHONDONTWRITEBYTECODE", "1".to_owned());
    // Tables have a width that does not go by the terminal of this run.
    set("COLUMNS", "200".to_owned());
    if let Ok(go) = std::env::var("KEROLOX_GO") {
        set("GOMODCACHE", format!("{go}/modules"));
        set("GOCACHE", format!("{go}/build"));
        set("GOFLAGS", "-modcacherw".to_owned());
        set("GOPROXY", "off".to_owned());
        set("GOSUMDB", "off".to_owned());
    }
    Ok(environment)
}

/// The variable that `deploy/setup.sh` sets when a language's SDK is there.
pub(crate) fn variable_of(language: &str) -> Option<&'static str> {
    Some(match language {
        "python" => "KEROLOX_PYTHON",
        "java" => "KEROLOX_MAVEN_REPOSITORY",
        "go" => "KEROLOX_GO",
        _ => return None,
    })
}

/// The program of that name on the path.
fn real(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name));
    candidates.find(|program| program.exists()).with_context(|| format!("there is no {name} on the path"))
}

fn script(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, format!("#!/usr/bin/env bash\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

const CARGO: &str = r##"case "$1" in
  new) mkdir -p "$2/src" && printf '[package]\nname = "%s"\n\n[dependencies]\n' "$2" >"$2/Cargo.toml" ;;
  add) [ -e Cargo.toml ] && echo "# $*" >>Cargo.toml ;;
  run)
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
    for program in PROGRAMS/*.rs; do
      if cmp -s src/main.rs "$program"; then
        name="$(basename "$program" .rs)"
        exec "BUILT$name" "${@:2}"
      fi
    done
    echo "src/main.rs is no file of PROGRAMS" >&2
    exit 101
    ;;
  *) echo "cargo $1 has no stand-in" >&2; exit 101 ;;
esac"##;

const MVN: &str = r##"into=.
for word in "$@"; do
  case "$word" in
    -Dartifact=*) IFS=: read -r group artifact version <<<"${word#*=}" ;;
    -DoutputDirectory=*) into="${word#*=}" ;;
    dependency:copy | -q) ;;
    *) echo "mvn $word has no stand-in" >&2; exit 1 ;;
  esac
done
mkdir -p "$into"
cp "REPOSITORY/${group//.//}/$artifact/$version/$artifact-$version.jar" "$into/""##;

const GO: &str = r##"if [ "$1" = get ]; then
  if ! grep -q "^require ${2/@/ }\$" MODULE/go.mod; then
    echo "MODULE/go.mod does not require $2" >&2
    exit 1
  fi
  module="$(sed -n 's/^module //p' go.mod)"
  sed "s|^module .*|module $module|" MODULE/go.mod >go.mod
  exec cp MODULE/go.sum go.sum
fi
exec REAL "$@""##;
