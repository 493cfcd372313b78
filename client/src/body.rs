//! Bodies on the wire: compressed, and with a checksum.

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kerolox_proto::v2;
use md5::Md5;
use sha1::Sha1;
use sha2::Digest as _;
use std::io::{Read as _, Write as _};

/// Largest body that is decompressed, in bytes: far more than any broker takes, and less than what hurts.
const DECOMPRESSED_BYTES_MAX: u64 = 64 << 20;

/// Why the body of a message that came cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It does not match the checksum of its sender or of the broker.
    #[error("the body does not match its checksum: it was damaged on its way or where it is stored")]
    Checksum,
    /// It is said to be compressed and cannot be decompressed.
    #[error("the body cannot be decompressed: {0}")]
    Compression(String),
    /// It is encoded in a way that this client does not know.
    #[error("the body has encoding {0}, which this client does not know; update the client")]
    Encoding(i32),
}

/// The body as its producer made it, from the wire's.
pub(crate) fn decode(body: Bytes, system: &v2::SystemProperties) -> Result<Bytes, (Bytes, BodyError)> {
    if let Some(digest) = &system.body_digest
        && !matches(&body, digest)
    {
        return Err((body, BodyError::Checksum));
    }
    match v2::Encoding::try_from(system.body_encoding) {
        Ok(v2::Encoding::Identity | v2::Encoding::Unspecified) => Ok(body),
        Ok(v2::Encoding::Gzip) => decompress(&body).map_err(|error| (body, error)),
        Err(_) => Err((body, BodyError::Encoding(system.body_encoding))),
    }
}

/// Checksums are hexadecimal digits in either case. A checksum of an unknown kind is ignored.
fn matches(body: &[u8], digest: &v2::Digest) -> bool {
    let same = |sum: &[u8]| hex::encode(sum).eq_ignore_ascii_case(&digest.checksum);
    match digest.r#type() {
        v2::DigestType::Crc32 => {
            // Some leave out zeros in front.
            u32::from_str_radix(&digest.checksum, 16).is_ok_and(|sum| sum == crc32fast::hash(body))
        }
        v2::DigestType::Md5 => same(&Md5::digest(body)),
        v2::DigestType::Sha1 => same(&Sha1::digest(body)),
        v2::DigestType::Unspecified => true,
    }
}

fn decompress(body: &[u8]) -> Result<Bytes, BodyError> {
    let mut whole = Vec::new();
    let mut decoder = GzDecoder::new(body).take(DECOMPRESSED_BYTES_MAX + 1);
    decoder.read_to_end(&mut whole).map_err(|error| BodyError::Compression(error.to_string()))?;
    if whole.len() as u64 > DECOMPRESSED_BYTES_MAX {
        let text = format!("it is larger than {DECOMPRESSED_BYTES_MAX} bytes");
        return Err(BodyError::Compression(text));
    }
    Ok(whole.into())
}

/// The body in gzip, where that is smaller.
pub(crate) fn compress(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    encoder.write_all(body).expect("writing to memory cannot fail");
    let packed = encoder.finish().expect("writing to memory cannot fail");
    (packed.len() < body.len()).then(|| packed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(kind: v2::DigestType, checksum: &str, encoding: i32) -> v2::SystemProperties {
        let digest = v2::Digest { r#type: kind.into(), checksum: checksum.to_owned() };
        v2::SystemProperties { body_digest: Some(digest), body_encoding: encoding, ..Default::default() }
    }

    #[test]
    fn checksums_of_all_kinds_are_verified() {
        use v2::DigestType::{Crc32, Md5, Sha1, Unspecified};
        let body = Bytes::from_static(b"hello");
        for (kind, sum) in [
            (Crc32, "3610A686"),
            (Crc32, "3610a686"),
            (Md5, "5D41402ABC4B2A76B9719D911017C592"),
            (Sha1, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"),
            (Unspecified, "whatever"),
        ] {
            assert_eq!(decode(body.clone(), &system(kind, sum, 1)), Ok(body.clone()), "{kind:?}");
        }
        for kind in [Crc32, Md5, Sha1] {
            let damaged = decode(body.clone(), &system(kind, "00", 1));
            assert_eq!(damaged, Err((body.clone(), BodyError::Checksum)), "{kind:?}");
        }
    }

    #[test]
    fn gzip_is_undone_and_nonsense_is_told() {
        let body = Bytes::from(vec![7; 10_000]);
        let packed = compress(&body).unwrap();
        assert!(packed.len() < 200);
        let gzip = system(v2::DigestType::Unspecified, "", v2::Encoding::Gzip.into());
        assert_eq!(decode(packed.clone(), &gzip), Ok(body));
        assert!(matches!(decode(packed.slice(..20), &gzip), Err((_, BodyError::Compression(_)))));
        assert_eq!(compress(b"short"), None);
        let unknown = system(v2::DigestType::Unspecified, "", 9);
        assert!(matches!(decode(packed, &unknown), Err((_, BodyError::Encoding(9)))));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = compress(&vec![0; usize::try_from(DECOMPRESSED_BYTES_MAX).unwrap() + 1]).unwrap();
        let error = decompress(&bomb).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
