//! The headers by which a client identifies itself in each request.
//!
//! Only the client id is required. Names of languages, dates and all the rest are taken as they come: the SDKs
//! disagree on them.

use std::sync::Arc;
use std::time::Duration;

use kerolox_model::limits::CLIENT_ID_MAX;
use kerolox_proto::v2::{Code, Language};
use tonic::Request;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;

use crate::refusal::Refusal;

/// The protocol's headers of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHeaders {
    /// `x-mq-client-id`: identifies one client instance; opaque. Not blank where [`Self::identified`].
    pub client_id: String,
    /// `x-mq-language` as the client spells it; Node.js says `HTTP`.
    pub language: String,
    /// `x-mq-client-version`.
    pub version: String,
    /// `x-mq-namespace`; for information only, resources carry their own.
    pub namespace: String,
    /// `x-mq-request-id`; empty when the SDK sends none.
    pub request_id: String,
    /// What `grpc-timeout` allows for the whole call; `None` when the client waits for ever.
    pub timeout: Option<Duration>,
}

impl ClientHeaders {
    /// The headers of a call, as [`ClientLayer`](crate::sdk::layers::ClientLayer) has read them; read here where no layer has.
    pub fn of<T>(request: &Request<T>) -> Arc<Self> {
        let known = request.extensions().get::<Arc<Self>>();
        known.map_or_else(|| Arc::new(Self::lenient(request.metadata())), Arc::clone)
    }

    /// Whether the client says who it is.
    ///
    /// # Errors
    /// CLIENT_ID_REQUIRED when the client id is missing, blank or not printable ASCII; BAD_REQUEST when it is longer than
    /// [`CLIENT_ID_MAX`] bytes.
    pub fn identified(&self) -> Result<(), Refusal> {
        if self.client_id.is_empty() {
            return Err(Refusal::new(
                Code::ClientIdRequired,
                "the request has no client id; set the header x-mq-client-id to a text that is unique to the client",
            ));
        }
        if self.client_id.len() > CLIENT_ID_MAX {
            return Err(Refusal::new(
                Code::BadRequest,
                format!(
                    "the client id in x-mq-client-id has {} bytes; at most {CLIENT_ID_MAX} are allowed",
                    self.client_id.len()
                ),
            ));
        }
        Ok(())
    }

    /// Reads the headers that are present and leaves the rest empty.
    pub fn lenient(metadata: &MetadataMap) -> Self {
        Self::of_http(metadata.as_ref())
    }

    /// Reads the headers that are present and leaves the rest empty.
    pub fn of_http(headers: &HeaderMap) -> Self {
        Self {
            client_id: text(headers, "x-mq-client-id"),
            language: text(headers, "x-mq-language"),
            version: text(headers, "x-mq-client-version"),
            namespace: text(headers, "x-mq-namespace"),
            request_id: text(headers, "x-mq-request-id"),
            timeout: headers.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?)),
        }
    }

    /// Whether this is the official SDK for Rust, of which 5.0.0 is the only version; the Rust client of this repository is
    /// another one.
    pub fn is_official_rust(&self) -> bool {
        self.language.eq_ignore_ascii_case("RUST") && self.version == "5.0.0"
    }

    /// The SDK that `x-mq-language` names, in the spelling of any SDK or of the protocol.
    pub fn sdk_language(&self) -> Language {
        match self.language.to_ascii_uppercase().as_str() {
            "DOTNET" => Language::DotNet,
            "GO" => Language::Golang,
            // What the SDK for Node.js says of itself.
            "HTTP" => Language::NodeJs,
            name => Language::from_str_name(name).unwrap_or_default(),
        }
    }

    /// Whether the client tries the addresses of a broker in turn until one answers: the SDK for Java and the Rust client of this
    /// repository. The others do not survive a list: Python and Go make one `:authority` of it, which HTTP/2 servers refuse,
    /// Node.js takes it for one host name, C# goes by the first address only, and Rust spreads its calls over all, those included
    /// that do not answer.
    pub fn tries_each_address(&self) -> bool {
        let is = |name: &str| self.language.eq_ignore_ascii_case(name);
        is("JAVA") || (is("RUST") && !self.is_official_rust())
    }
}

/// The trimmed value of a header; empty when it is missing or not printable ASCII.
fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_owned()
}

/// Reads a `grpc-timeout`: one to eight digits and a unit. Durations that look absurd (`99999999H`) are fine.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (unit_at, unit) = text.char_indices().last()?;
    let digits = &text[..unit_at];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Eight digits of hours are 3.6 * 10^11 seconds: nothing here can overflow.
    let amount: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (name, value) in pairs {
            map.insert(*name, value.parse().expect("ASCII"));
        }
        map
    }

    #[test]
    fn the_client_id_is_the_only_required_header() {
        let headers = ClientHeaders::lenient(&metadata(&[("x-mq-client-id", "host@1@0@abc")]));
        headers.identified().unwrap();
        assert_eq!(headers, ClientHeaders { client_id: "host@1@0@abc".into(), ..ClientHeaders::default() });
        for missing in [metadata(&[]), metadata(&[("x-mq-client-id", "   ")])] {
            assert_eq!(
                ClientHeaders::lenient(&missing).identified().unwrap_err().code,
                Code::ClientIdRequired
            );
        }
        let long = "c".repeat(CLIENT_ID_MAX + 1);
        let refusal =
            ClientHeaders::lenient(&metadata(&[("x-mq-client-id", &long)])).identified().unwrap_err();
        assert_eq!(refusal.code, Code::BadRequest);
    }

    #[test]
    fn languages_are_known_as_sdks_spell_them() {
        for (name, language) in [
            ("DOTNET", Language::DotNet),
            ("CPP", Language::Cpp),
            ("GO", Language::Golang),
            ("HTTP", Language::NodeJs),
            ("java", Language::Java),
            ("PYTHON", Language::Python),
            ("RUST", Language::Rust),
            ("", Language::Unspecified),
            ("COBOL", Language::Unspecified),
        ] {
            let headers = ClientHeaders::lenient(&metadata(&[("x-mq-language", name)]));
            assert_eq!(headers.sdk_language(), language, "{name:?}");
        }
    }

    #[test]
    fn timeouts_of_every_unit_are_read() {
        let cases = [
            ("43800H", Some(Duration::from_secs(43_800 * 3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("2999m", Some(Duration::from_millis(2999))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("3 S", None),
            ("3é", None),
            ("3x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), expected, "{text:?}");
        }
    }
}
