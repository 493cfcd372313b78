//! The hashes by which messages are found again. They are part of the log format: XXH3 with 64 bits, no seed, over the
//! bytes that the functions below name.
//!
//! Hashes of different things may be equal; the caller compares the stored message with the wanted id or key.

use twox_hash::XxHash3_64;

/// The hash of a message id: over its bytes.
pub fn id_hash(message_id: &str) -> u64 {
    XxHash3_64::oneshot(message_id.as_bytes())
}

/// The hash of a key of a message of the topic with number `topic_id`: over the number,
/// little-endian, and then the key's bytes.
pub fn key_hash(topic_id: u32, key: &str) -> u64 {
    let mut bytes = Vec::with_capacity(4 + key.len());
    bytes.extend_from_slice(&topic_id.to_le_bytes());
    bytes.extend_from_slice(key.as_bytes());
    XxHash3_64::oneshot(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored in logs: these numbers may never change.
    #[test]
    fn hashes_are_those_of_version_1() {
        assert_eq!(id_hash(""), 0x2D06_8005_38D3_94C2, "XXH3's own value for nothing");
        assert_eq!(id_hash("01AB"), 0xFB03_7B0C_60C6_74CA);
        assert_eq!(key_hash(7, "order-1"), 0x9F4E_1A03_558C_4D71);
        assert_ne!(key_hash(7, "order-1"), key_hash(8, "order-1"));
    }
}
