//! Layered configuration: a TOML file, then the environment, then flags; later layers win.
//!
//! The target is a plain serde struct with defaults, `deny_unknown_fields` and kebab-case keys. It is checked against the
//! file alone first, because only that check can name a line.

use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Case, ConfigBuilder, Environment, FileFormat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

pub use kerolox_model::units::{ByteSize, TimeSpan, UnitError};

/// Why the configuration cannot be used. The text names the key and, for the file, the line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that does not belong.
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, column and the mistake there.
        reason: String,
    },
    /// An environment variable or flag does not fit.
    #[error("the environment ({prefix}__...) or a flag has an invalid setting: {reason}")]
    Override {
        /// Prefix of the environment variables.
        prefix: String,
        /// The mistake.
        reason: String,
    },
    /// The configuration cannot be shown as TOML.
    #[error("cannot print the configuration: {0}")]
    Unprintable(#[from] toml::ser::Error),
}

/// Reads `file` (if any), then the environment variables `PREFIX__SECTION__KEY`, then `flags`: pairs of a dotted key, as
/// in `store.flush`, and its value; flags that were not given are `None`.
///
/// # Errors
/// A [`ConfigError`] that names the key, and for the file the line.
pub fn load<T>(
    file: Option<&Path>,
    env_prefix: &str,
    flags: &[(&str, Option<String>)],
) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    load_from(file, env_prefix, Environment::default(), flags)
}

fn load_from<T>(
    file: Option<&Path>,
    env_prefix: &str,
    environment: Environment,
    flags: &[(&str, Option<String>)],
) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut builder: ConfigBuilder<DefaultState> = config::Config::builder();
    if let Some(path) = file {
        let text = read_checked::<T>(path)?;
        builder = builder.add_source(config::File::from_str(&text, FileFormat::Toml));
    }
    let environment =
        environment.prefix(env_prefix).prefix_separator("__").separator("__").convert_case(Case::Kebab);
    builder = builder.add_source(environment);
    let overridden = |error: config::ConfigError| ConfigError::Override {
        prefix: env_prefix.to_owned(),
        reason: error.to_string(),
    };
    for (key, value) in flags {
        builder = builder.set_override_option(*key, value.clone()).map_err(overridden)?;
    }
    builder.build().and_then(config::Config::try_deserialize).map_err(overridden)
}

/// The text of the file, once it is known to fit `T` by itself.
fn read_checked<T: DeserializeOwned>(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    match toml::from_str::<T>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            Err(ConfigError::File { path: path.to_owned(), reason: error.to_string().trim_end().to_owned() })
        }
    }
}

/// The configuration as TOML, for `--print-config`; reading it back gives the same.
///
/// # Errors
/// [`ConfigError::Unprintable`] when `T` has a shape that TOML cannot hold.
pub fn print<T: Serialize>(value: &T) -> Result<String, ConfigError> {
    Ok(toml::to_string_pretty(value)?)
}

/// For `#[serde(deserialize_with)]`: a list of texts, in TOML as an array or, as environment variables and flags must
/// have it, as one text with commas.
///
/// # Errors
/// Whatever is neither.
pub fn comma_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of texts, or one text with commas between its parts")]
    enum ListOrText {
        List(Vec<String>),
        Text(String),
    }
    Ok(match ListOrText::deserialize(deserializer)? {
        ListOrText::List(list) => list,
        ListOrText::Text(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        }
    })
}

/// For settings that have few values: the one that a word stands for.
///
/// # Errors
/// Any other word, with those that there are.
pub fn one_of<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    words: &[(&str, T)],
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        serde::de::Error::custom(format!("{text:?} is none of {}", known.join(", ")))
    })
}

/// For `#[serde(deserialize_with)]`: a list of durations in the form of [`comma_list`].
///
/// # Errors
/// Whatever is neither, or holds something that is no duration.
pub fn span_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TimeSpan>, D::Error> {
    let parts = comma_list(deserializer)?;
    parts.iter().map(|part| part.parse().map_err(serde::de::Error::custom)).collect()
}

#[cfg(test)]
mod tests;
