//! Saved clusters: how each is reached, so that it need not be said with every command.

use kerolox_client::{Address, Client, ClientBuilder, Credentials, Tls};
use kerolox_report::outcome::{CommandFailure, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Names the file with the contexts.
const FILE_VARIABLE: &str = "MQADMIN_CONTEXTS";

/// How one cluster is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Profile {
    /// As in `-n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namesrv_addr: Option<String>,
    /// What `-c` means when neither it nor `-b` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// `system`, `unverified`, or a file with the certificates to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_key: Option<String>,
    /// The secret itself is in a file of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_key_file: Option<PathBuf>,
}

impl Profile {
    /// A client of these servers.
    pub(crate) fn client(&self, addresses: &str) -> Result<Client> {
        let builder = self.encrypted(Client::builder(addresses))?;
        Ok(self.signed(builder)?.build()?)
    }

    /// A client of these servers, with each address by itself.
    pub(crate) fn client_of(&self, addresses: &[Address]) -> Result<Client> {
        self.client(&addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(";"))
    }

    fn encrypted(&self, builder: ClientBuilder) -> Result<ClientBuilder> {
        Ok(match self.tls.as_deref() {
            None => builder,
            Some("system") => builder.tls(Tls::system()?),
            Some("unverified") => builder.tls(Tls::unverified()),
            Some(file) => builder.tls(Tls::trusting_pem(&read(Path::new(file))?)?),
        })
    }

    fn signed(&self, builder: ClientBuilder) -> Result<ClientBuilder> {
        Ok(match (&self.access_key, &self.secret_key_file) {
            (Some(key), Some(file)) => {
                let secret = String::from_utf8_lossy(&read(file)?).trim().to_owned();
                builder.credentials(Credentials::new(key, secret))
            }
            (None, None) => builder,
            _ => {
                return Err(CommandFailure::usage(
                    "access-key and secret-key-file belong together; set both or none",
                ));
            }
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| CommandFailure::failed(format!("cannot read {}: {error}", file.display())))
}

/// All contexts, as they are in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Profile>,
}

impl Contexts {
    /// What the file holds; nothing when there is none.
    pub(crate) fn load() -> Result<Self> {
        match file() {
            Some(file) => Self::load_from(&file),
            None => Ok(Self::default()),
        }
    }

    fn load_from(file: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(CommandFailure::failed(format!("cannot read {}: {error}", file.display())));
            }
        };
        toml::from_str(&text).map_err(|error| {
            CommandFailure::failed(format!(
                "{} is no file of contexts, mend or remove it: {error}",
                file.display()
            ))
        })
    }

    /// Replaces the file.
    pub(crate) fn save(&self) -> Result<()> {
        let file = file().ok_or_else(|| {
            CommandFailure::failed(format!(
                "there is no place for contexts; set HOME, or {FILE_VARIABLE} to a file"
            ))
        })?;
        self.save_to(&file)
            .map_err(|error| CommandFailure::failed(format!("cannot write {}: {error}", file.display())))
    }

    fn save_to(&self, file: &Path) -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = toml::to_string_pretty(self).map_err(std::io::Error::other)?;
        // A concurrent reader gets the old file or the new one.
        let draft = file.with_extension(format!("toml.{}", std::process::id()));
        std::fs::write(&draft, text)?;
        std::fs::rename(&draft, file)
    }

    /// The context of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Profile> {
        self.contexts.get(name).ok_or_else(|| {
            let known = Vec::from_iter(self.contexts.keys().map(String::as_str)).join(", ");
            CommandFailure::not_found(match known.as_str() {
                "" => {
                    format!("there is no context {name}, nor any other; make one with `mqadmin context add`")
                }
                known => format!("there is no context {name}; there are: {known}"),
            })
        })
    }

    /// The context to be used when none is named.
    pub(crate) fn current(&self) -> Result<Option<&Profile>> {
        self.current.as_deref().map(|name| self.get(name)).transpose()
    }
}

fn file() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = || variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    variable(FILE_VARIABLE).or_else(|| Some(folder()?.join("kerolox").join("contexts.toml")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Contexts {
        let profile = Profile {
            namesrv_addr: Some("a:9876;b:9876".into()),
            cluster: Some("DefaultCluster".into()),
            tls: Some("unverified".into()),
            ..Default::default()
        };
        Contexts { current: Some("prod".into()), contexts: BTreeMap::from([("prod".into(), profile)]) }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new").join("contexts.toml");
        assert_eq!(Contexts::load_from(&file).unwrap(), Contexts::default());
        example().save_to(&file).unwrap();
        assert_eq!(Contexts::load_from(&file).unwrap(), example());
        std::fs::write(&file, "[contexts.prod]\nnamesrv = 'a:1'").unwrap();
        assert!(Contexts::load_from(&file).unwrap_err().message.contains("mend or remove it"));
    }

    #[test]
    fn an_unknown_context_names_the_known_ones() {
        assert!(example().get("test").unwrap_err().message.contains("there are: prod"));
        assert!(Contexts::default().get("test").unwrap_err().message.contains("context add"));
        let lost = Contexts { current: Some("gone".into()), ..example() };
        assert!(lost.current().is_err());
        assert!(Contexts::default().current().unwrap().is_none());
    }

    #[test]
    fn half_of_the_credentials_are_refused() {
        let half = Profile { access_key: Some("AK".into()), ..Default::default() };
        assert_eq!(half.client("h:1").unwrap_err().exit, kerolox_report::outcome::ExitStatus::Usage);
        assert!(Profile::default().client("h:1").is_ok());
    }
}
