//! Who the client is, proven by signatures.

use crate::error::{Error, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use std::fmt;

/// An access key and its secret. Requests are signed with the secret, which itself is never sent.
///
/// Only the time of a request is signed, so an eavesdropper can repeat a signature: use [`Tls`](crate::Tls) as well.
#[derive(Clone)]
pub struct Credentials {
    access_key: String,
    secret_key: String,
    session_token: Option<String>,
}

impl Credentials {
    /// An access key and its secret.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into(), session_token: None }
    }

    /// Adds the token of credentials that are valid for a time only. It is sent along.
    #[must_use]
    pub fn session_token(mut self, token: impl Into<String>) -> Self {
        self.session_token = Some(token.into());
        self
    }

    /// Headers can carry them.
    pub(crate) fn check(&self) -> Result<()> {
        let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        if !is_word(&self.access_key) || self.access_key.contains(['/', ',']) {
            return Err(Error::invalid(
                "the access key must be printable ASCII without blank, comma and slash; check it",
            ));
        }
        if !self.session_token.as_deref().is_none_or(is_word) {
            return Err(Error::invalid("the session token must be printable ASCII; check it"));
        }
        Ok(())
    }

    /// The value of the header `authorization` for a request made at `date_time`, as its header says.
    pub(crate) fn authorization(&self, date_time: &str) -> String {
        let mut mac =
            Hmac::<Sha1>::new_from_slice(self.secret_key.as_bytes()).expect("keys of any length are taken");
        mac.update(date_time.as_bytes());
        let signature = hex::encode_upper(mac.finalize().into_bytes());
        format!(
            "MQv2-HMAC-SHA1 Credential={}, SignedHeaders=x-mq-date-time, Signature={signature}",
            self.access_key
        )
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.session_token.as_deref()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha1_of_the_time() {
        // Test case 2 of RFC 2202.
        let credentials = Credentials::new("AK", "Jefe");
        assert_eq!(
            credentials.authorization("what do ya want for nothing?"),
            "MQv2-HMAC-SHA1 Credential=AK, SignedHeaders=x-mq-date-time, \
             Signature=EFFCDF6AE5EB2FA2D27416D5F184DF9C259A7C79"
        );
    }

    #[test]
    fn secrets_do_not_show_and_odd_ones_are_refused() {
        let credentials = Credentials::new("AK", "hidden").session_token("also-hidden");
        assert!(!format!("{credentials:?}").contains("hidden"));
        assert!(credentials.check().is_ok());
        for wrong in
            [Credentials::new("", "s"), Credentials::new("a,b", "s"), credentials.session_token("a\nb")]
        {
            assert!(matches!(wrong.check(), Err(Error::Invalid(_))));
        }
    }
}
