//! Writes the golden fixture of the index format: `cargo run --release -p kerolox-rocks --example index_fixture -- FOLDER`.
//! The result is checked in as `broker/rocks/fixtures/index-v3`: the index of the log in `broker/store/fixtures/v1`.

use std::path::Path;
use std::sync::Arc;

use kerolox_log::fs::OsFolder;
use kerolox_rocks::RocksKv;

#[path = "../../store/tests/support/contents.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod contents;

fn main() {
    let out = std::env::args().nth(1).expect("usage: index_fixture FOLDER");
    let data = tempfile::tempdir().expect("a folder");
    let (log, index) = (data.path().join("log"), data.path().join("index"));
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo run --example index_fixture");
    contents::copy(&Path::new(&crate_folder).join("../store/fixtures/v1/log"), &log);
    let folder = Arc::new(OsFolder::create(&log).expect("the copy"));
    contents::open(folder, Arc::new(RocksKv::open(&index).expect("opens"))).close();
    std::fs::create_dir_all(&out).expect("a folder");
    for file in std::fs::read_dir(&index).expect("an index") {
        let file = file.expect("an entry");
        let name = file.file_name().to_string_lossy().into_owned();
        // The other files (options, messages, an empty log) are not data, and large.
        if name == "CURRENT" || name.starts_with("MANIFEST-") || name.ends_with(".sst") {
            std::fs::copy(file.path(), Path::new(&out).join(name)).expect("copied");
        }
    }
}
