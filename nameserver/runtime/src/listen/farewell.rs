//! How a peer left.

/// Bytes that are kept: a GOAWAY frame, with some text in it.
const TAIL_BYTES: usize = 256;
/// Length, type, flags and stream.
const HEADER_BYTES: usize = 9;
/// Type of a GOAWAY frame.
const GOAWAY: u8 = 7;

/// The end of the peer's bytes.
#[derive(Debug)]
pub(super) struct LastWords {
    bytes: [u8; TAIL_BYTES],
    len: usize,
}

impl Default for LastWords {
    fn default() -> Self {
        Self { bytes: [0; TAIL_BYTES], len: 0 }
    }
}

impl LastWords {
    /// The peer sent this.
    pub(super) fn heard(&mut self, bytes: &[u8]) {
        let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        self.bytes[..tail.len()].copy_from_slice(tail);
        self.len = tail.len();
    }

    /// Whether the peer closed the connection of its own will: the last that it sent is a GOAWAY frame without an error, as
    /// clients send it when they are done.
    pub(super) fn is_goodbye(&self) -> bool {
        let tail = &self.bytes[..self.len];
        (0..tail.len().saturating_sub(HEADER_BYTES)).any(|at| {
            let (header, payload) = tail[at..].split_at(HEADER_BYTES);
            let len = usize::from(header[1]) << 8 | usize::from(header[2]);
            let is_last = header[0] == 0 && len == payload.len() && header[3..] == [GOAWAY, 0, 0, 0, 0, 0];
            // The last stream, and the error.
            is_last && payload.get(4..8) == Some(&[0; 4])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goaway(error: u8, text: &str) -> Vec<u8> {
        let len = u8::try_from(8 + text.len()).unwrap();
        let frame = [0, 0, len, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, error];
        [&frame, text.as_bytes()].concat()
    }

    #[test]
    fn a_goaway_without_an_error_is_a_goodbye() {
        let said = |bytes: &[u8]| {
            let mut words = LastWords::default();
            words.heard(&[7; 300]);
            words.heard(bytes);
            words.is_goodbye()
        };
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert!(said(&goaway(0, "")) && said(&goaway(0, "client transport shutdown")));
        assert!(said(&[&[1; 1000][..], &ping, &goaway(0, "")].concat()));
        assert!(!said(&goaway(2, "")), "an error");
        assert!(!said(&ping) && !said(&[]) && !said(&[0, 0, 8, 7]));
        assert!(!said(&[goaway(0, ""), ping.to_vec()].concat()), "it went on after it");
    }
}
