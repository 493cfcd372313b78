//! What a test suite may ask for: one line of words.

use anyhow::{Context, Result, bail};

/// A request, as [`crate::cluster_server`] documents it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClusterRequest {
    Cluster { settings: Vec<(String, String)> },
    Standalone,
    Group { members: usize },
    AddGroup { cluster: usize, group: String },
    Server { cluster: usize, server: String, change: ServerChange },
    InSync { cluster: usize },
    RestartInTurn { cluster: usize },
    Logs,
    Close { cluster: usize },
}

/// An action on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerChange {
    Kill,
    Stop,
    Start,
    Nothing,
}

impl ClusterRequest {
    /// # Errors
    /// When it is none of the requests.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["cluster", ref settings @ ..] => {
                Self::Cluster { settings: settings.iter().map(|&word| setting(word)).collect::<Result<_>>()? }
            }
            ["standalone"] => Self::Standalone,
            ["group", members] => Self::Group { members: number(members)? },
            ["add-group", cluster, group] => {
                Self::AddGroup { cluster: number(cluster)?, group: group.to_owned() }
            }
            ["kill", cluster, server] => Self::server(cluster, server, ServerChange::Kill)?,
            ["stop", cluster, server] => Self::server(cluster, server, ServerChange::Stop)?,
            ["start", cluster, server] => Self::server(cluster, server, ServerChange::Start)?,
            ["server", cluster, server] => Self::server(cluster, server, ServerChange::Nothing)?,
            ["in-sync", cluster] => Self::InSync { cluster: number(cluster)? },
            ["restart-in-turn", cluster] => Self::RestartInTurn { cluster: number(cluster)? },
            ["logs"] => Self::Logs,
            ["close", cluster] => Self::Close { cluster: number(cluster)? },
            _ => bail!("unknown request {line:?}"),
        })
    }

    fn server(cluster: &str, server: &str, change: ServerChange) -> Result<Self> {
        Ok(Self::Server { cluster: number(cluster)?, server: server.to_owned(), change })
    }
}

fn setting(word: &str) -> Result<(String, String)> {
    let (name, value) = word.split_once('=').with_context(|| format!("{word:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn number(word: &str) -> Result<usize> {
    word.parse().with_context(|| format!("{word:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line_of_words() {
        let parsed = |line| ClusterRequest::parse(line).unwrap();
        assert_eq!(parsed("cluster \n"), ClusterRequest::Cluster { settings: Vec::new() });
        let settings = vec![("A".to_owned(), "1=2".to_owned()), ("B".to_owned(), String::new())];
        assert_eq!(parsed("cluster A=1=2 B="), ClusterRequest::Cluster { settings });
        assert_eq!(parsed("group 3"), ClusterRequest::Group { members: 3 });
        let (server, change) = ("master".to_owned(), ServerChange::Kill);
        assert_eq!(parsed("kill 7 master"), ClusterRequest::Server { cluster: 7, server, change });
    }

    #[test]
    fn anything_else_is_refused_with_its_words() {
        for line in ["", "clusters", "group", "group three", "kill 0", "cluster NAME", "in-sync -1"] {
            let error = ClusterRequest::parse(line).unwrap_err().to_string();
            assert!(error.contains(line.split(' ').next_back().unwrap()), "{line}: {error}");
        }
    }
}
