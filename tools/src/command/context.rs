//! `context`: saved clusters.

use super::confirm;
use crate::context::{Contexts, Profile};
use clap::Args;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, OutputFormat, table};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How a context command prints its result.
#[derive(Debug, Clone, Args)]
pub(crate) struct Local {
    /// How to print the result
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

/// Save or change a way to reach a cluster; settings that are not given stay as they are. The first one becomes the
/// current one
#[derive(Debug, Args)]
pub(crate) struct Add {
    #[command(flatten)]
    pub(crate) local: Local,
    /// Name of the context
    name: String,
    /// Nameservers, HOST:PORT, several separated by ';' or ','
    #[arg(short = 'n', long = "namesrv-addr", alias = "namesrvAddr", value_name = "ADDRS")]
    namesrv_addr: Option<String>,
    /// Cluster that commands mean when they name none
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Encrypt connections, trusting: 'system', 'unverified' (any server), or a file with certificates (PEM)
    #[arg(long, value_name = "TRUST")]
    tls: Option<String>,
    /// Sign requests with this key
    #[arg(long, requires = "secret_key_file")]
    access_key: Option<String>,
    /// File with the secret that belongs to the key
    #[arg(long, requires = "access_key", value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
    /// Make it the current one
    #[arg(long = "use")]
    make_current: bool,
}

/// Make a context the current one: commands use it unless they name another
#[derive(Debug, Args)]
pub(crate) struct Use {
    #[command(flatten)]
    pub(crate) local: Local,
    /// Name of the context
    name: String,
}

/// List the contexts
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) local: Local,
}

/// Show a context, the current one by default
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) local: Local,
    /// Name of the context
    name: Option<String>,
}

/// Forget a context
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub(crate) local: Local,
    /// Name of the context
    name: String,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
}

impl Add {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let mut contexts = Contexts::load()?;
        let profile = contexts.contexts.entry(self.name.clone()).or_default();
        fn set<T>(field: &mut Option<T>, given: Option<T>) {
            if given.is_some() {
                *field = given;
            }
        }
        set(&mut profile.namesrv_addr, self.namesrv_addr);
        set(&mut profile.cluster, self.cluster);
        set(&mut profile.tls, self.tls);
        set(&mut profile.access_key, self.access_key);
        set(&mut profile.secret_key_file, self.secret_key_file);
        let Some(addresses) = profile.namesrv_addr.as_deref() else {
            return Err(CommandFailure::usage("a new context needs nameservers; pass -n HOST:PORT"));
        };
        // What does not work now would fail with every command later.
        profile.client(addresses)?;
        if self.make_current || contexts.current.is_none() {
            contexts.current = Some(self.name.clone());
        }
        contexts.save()?;
        Ok(shown(&contexts, Some(self.name)))
    }
}

impl Use {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let mut contexts = Contexts::load()?;
        contexts.get(&self.name)?;
        contexts.current = Some(self.name.clone());
        contexts.save()?;
        Ok(shown(&contexts, Some(self.name)))
    }
}

impl List {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        Ok(shown(&Contexts::load()?, None))
    }
}

impl Show {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let contexts = Contexts::load()?;
        let name = self.name.or_else(|| contexts.current.clone()).ok_or_else(|| {
            CommandFailure::not_found("there is no current context; make one with `mqadmin context add`")
        })?;
        contexts.get(&name)?;
        Ok(shown(&contexts, Some(name)))
    }
}

impl Remove {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let mut contexts = Contexts::load()?;
        contexts.get(&self.name)?;
        confirm(&format!("Forget context {}?", self.name), self.yes)?;
        contexts.contexts.remove(&self.name);
        contexts.current = contexts.current.filter(|current| *current != self.name);
        contexts.save()?;
        Ok(shown(&contexts, None))
    }
}

/// All contexts, or one.
fn shown(contexts: &Contexts, only: Option<String>) -> CommandReport {
    let wanted = contexts.contexts.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
    let current = |name: &String| contexts.current.as_ref() == Some(name);
    let row = |(name, profile): (&String, &Profile)| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            if current(name) { "*".to_owned() } else { String::new() },
            name.clone(),
            or_none(&profile.namesrv_addr),
            or_none(&profile.cluster),
            or_none(&profile.tls),
            or_none(&profile.access_key),
        ]
    };
    let view = |(name, profile): (&String, &Profile)| {
        let mut view = json!(profile);
        if let Value::Object(fields) = &mut view {
            fields.insert("name".to_owned(), json!(name));
            fields.insert("current".to_owned(), json!(current(name)));
        }
        view
    };
    let header = ["Current", "Name", "Nameservers", "Cluster", "TLS", "Access Key"];
    CommandReport::ok(
        table(&header, wanted.clone().map(row)),
        json!({ "contexts": Vec::from_iter(wanted.map(view)) }),
    )
}
