//! An index is what follows from the log.

use kerolox_store::Store;
use kerolox_store::kv::Kv;
use kerolox_store::state::check::LogReplay;

/// `kv` is where the store keeps its index.
pub(crate) fn check(store: &Store, kv: &dyn Kv) -> Result<(), String> {
    let text = |error: kerolox_store::StoreError| error.to_string();
    store.flush_parked().map_err(text)?;
    let applied = store.state().applied();
    let mut replay = match store.log_start() {
        0 => LogReplay::until(applied),
        _ => LogReplay::of_trimmed(store.reader().start(), applied),
    };
    for frame in store.reader().scan(store.reader().start()) {
        let frame = frame.map_err(|error| error.to_string())?;
        replay.take(&frame).map_err(text)?;
    }
    if replay.begin().is_none() {
        return Ok(());
    }
    let compared = replay.compare(kv).map_err(text)?;
    match compared.examples.first() {
        None => Ok(()),
        Some(example) => {
            Err(format!("{} keys of the index differ from the log: {example:?}", compared.differences))
        }
    }
}
