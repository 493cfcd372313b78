//! How a command can end, for people and for scripts.

use crate::output::{OutputFormat, print_error};
use serde_json::json;

/// Exit codes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Everything was done.
    Ok = 0,
    /// Nothing was done, or it is not as it should be.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Some brokers did it, others did not.
    Partial = 3,
    /// What the command is about is not there.
    NotFound = 4,
    /// The server does not allow it.
    Denied = 5,
    /// No answer from a nameserver or broker.
    Unreachable = 6,
}

/// A command that failed altogether.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandFailure {
    /// How the process ends.
    pub exit: ExitStatus,
    /// The problem, and its remedy.
    pub message: String,
}

/// Result of a command's parts.
pub type Result<T> = std::result::Result<T, CommandFailure>;

impl CommandFailure {
    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: ExitStatus::Usage, message: message.into() }
    }

    /// What the command is about is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { exit: ExitStatus::NotFound, message: message.into() }
    }

    /// It did not work.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: ExitStatus::Failed, message: message.into() }
    }

    /// This failure, introduced by a phrase that says what was being done.
    #[must_use]
    pub fn during(self, what: impl std::fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Prints it to the standard error.
    pub fn print(&self, format: OutputFormat) {
        let value = json!({ "error": self.message, "exit": self.exit as u8 });
        print_error(&format.item(&value).unwrap_or_else(|| self.message.clone()));
    }
}

#[cfg(feature = "client")]
impl From<kerolox_client::Error> for CommandFailure {
    fn from(error: kerolox_client::Error) -> Self {
        use kerolox_client::Error;
        let exit = match &error {
            Error::Invalid(_) => ExitStatus::Usage,
            Error::Unreachable { .. } | Error::Timeout { .. } | Error::Broken { .. } => {
                ExitStatus::Unreachable
            }
            Error::NoQueue { .. } => ExitStatus::NotFound,
            error => match error.code() {
                Some(code) if code.is_not_found() => ExitStatus::NotFound,
                Some(code) if (40100..40200).contains(&code.0) || code.0 == 40300 => ExitStatus::Denied,
                _ => ExitStatus::Failed,
            },
        };
        Self { exit, message: error.to_string() }
    }
}

/// The exit code of an operation on several brokers, from what each of them did.
pub fn combined<'a>(failures: impl Iterator<Item = Option<&'a CommandFailure>>) -> ExitStatus {
    let (mut first, mut some_did) = (None, false);
    for failure in failures {
        match failure {
            None => some_did = true,
            Some(failure) => first = first.or(Some(failure.exit)),
        }
    }
    match first {
        None => ExitStatus::Ok,
        Some(_) if some_did => ExitStatus::Partial,
        Some(exit) => exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "client")]
    fn exit_of_code(code: i32) -> ExitStatus {
        use kerolox_client::{Code, Error};
        let error = Error::Server { endpoint: "b:1".into(), code: Code(code), message: "m".into() };
        CommandFailure::from(error).exit
    }

    #[cfg(feature = "client")]
    #[test]
    fn errors_map_to_exit_codes() {
        use kerolox_client::Error;
        assert_eq!(exit_of_code(40402), ExitStatus::NotFound);
        assert_eq!(exit_of_code(40100), ExitStatus::Denied);
        assert_eq!(exit_of_code(40000), ExitStatus::Failed);
        let unreachable = Error::Unreachable { endpoint: "b:1".into(), reason: "refused".into() };
        assert_eq!(CommandFailure::from(unreachable).exit, ExitStatus::Unreachable);
        assert_eq!(CommandFailure::from(Error::Invalid("x".into())).exit, ExitStatus::Usage);
    }

    #[test]
    fn several_brokers_combine() {
        let (not_found, failed) = (CommandFailure::not_found("x"), CommandFailure::failed("y"));
        assert_eq!(combined([None, None].into_iter()), ExitStatus::Ok);
        assert_eq!(combined([None, Some(&failed)].into_iter()), ExitStatus::Partial);
        assert_eq!(combined([Some(&not_found), Some(&failed)].into_iter()), ExitStatus::NotFound);
    }
}
