//! The fenced blocks of a page, and what each of them is for.

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// Languages whose blocks are programs, so they run, become a file, or say why not.
const PROGRAMS: [&str; 8] = ["sh", "bash", "console", "python", "rust", "java", "go", "javascript"];

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FencedBlock {
    pub(crate) language: String,
    pub(crate) text: String,
    pub(crate) purpose: BlockPurpose,
}

/// What becomes of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlockPurpose {
    /// It is only shown.
    Shown,
    /// It becomes a file.
    File(String),
    /// Commands whose outputs are not compared.
    Script { terminal: Option<String> },
    /// Commands with their outputs.
    Session { terminal: Option<String>, last_exit: i32, is_repeated: bool },
}

/// The fenced blocks of a page.
///
/// # Errors
/// When an info string is not understood.
pub(crate) fn blocks(page: &str) -> Result<Vec<FencedBlock>> {
    let mut found = Vec::new();
    let mut current: Option<(String, String)> = None;
    for event in Parser::new(page) {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let info = match kind {
                    CodeBlockKind::Fenced(info) => info.to_string(),
                    CodeBlockKind::Indented => bail!("a block is indented and not fenced"),
                };
                current = Some((info, String::new()));
            }
            Event::Text(text) => {
                if let Some((_, block)) = &mut current {
                    block.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                let (info, text) = current.take().context("a block ends that did not begin")?;
                found.push(fenced(&info, text).with_context(|| format!("the block \"{info}\""))?);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn fenced(info: &str, text: String) -> Result<FencedBlock> {
    let (language, words) = info.split_once([' ', ',']).unwrap_or((info, ""));
    if language.is_empty() {
        bail!("it has no language");
    }
    Ok(FencedBlock { language: language.to_owned(), text, purpose: purpose(language, words)? })
}

fn purpose(language: &str, words: &str) -> Result<BlockPurpose> {
    if let Some((_, reason)) = words.split_once("no-run=") {
        if reason.trim_matches('"').trim().is_empty() {
            bail!("no-run has no reason");
        }
        return Ok(BlockPurpose::Shown);
    }
    let (mut file, mut terminal, mut last_exit, mut is_repeated) = (None, None, 0, false);
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("file", name)) => file = Some(name.to_owned()),
            Some(("terminal", name)) => terminal = Some(name.to_owned()),
            Some(("exit", code)) => last_exit = code.parse().context("exit takes a number")?,
            None if word == "retry" => is_repeated = true,
            _ => bail!("unknown word {word:?}"),
        }
    }
    Ok(match (file, language) {
        (Some(file), _) => BlockPurpose::File(file),
        (None, "sh" | "bash") => BlockPurpose::Script { terminal },
        (None, "console") => BlockPurpose::Session { terminal, last_exit, is_repeated },
        (None, language) if PROGRAMS.contains(&language) => bail!("it needs file=NAME or no-run=\"REASON\""),
        (None, _) => BlockPurpose::Shown,
    })
}

/// A command of a session, and the lines that it is said to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionCommand {
    /// Nothing where a session goes on with what its terminal shows.
    pub(crate) command: Option<String>,
    pub(crate) output: Vec<String>,
}

/// The commands of a session.
pub(crate) fn commands(text: &str) -> Vec<SessionCommand> {
    let mut found: Vec<SessionCommand> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            found.push(SessionCommand { command: Some(command.to_owned()), output: Vec::new() });
            continue;
        }
        if found.is_empty() {
            found.push(SessionCommand { command: None, output: Vec::new() });
        }
        let last = found.last_mut().expect("there is one");
        match (line.strip_prefix("> "), &mut last.command) {
            (Some(more), Some(command)) if last.output.is_empty() => {
                command.push('\n');
                command.push_str(more);
            }
            _ => last.output.push(line.to_owned()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_says_what_becomes_of_its_block() {
        let of = |info: &str| fenced(info, String::new()).map(|block| block.purpose);
        assert_eq!(of("python file=a.py").unwrap(), BlockPurpose::File("a.py".to_owned()));
        assert_eq!(of("sh terminal=b").unwrap(), BlockPurpose::Script { terminal: Some("b".to_owned()) });
        assert_eq!(
            of("console exit=3 retry").unwrap(),
            BlockPurpose::Session { terminal: None, last_exit: 3, is_repeated: true }
        );
        assert_eq!(of("rust no-run=\"a part\"").unwrap(), BlockPurpose::Shown);
        assert_eq!(of("toml").unwrap(), BlockPurpose::Shown);
        for wrong in ["", "python", "sh no-run=", "console exit=x", "sh later"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_session_is_commands_with_their_outputs() {
        let found = commands("$ for i in 1 2\n> do echo $i; done\n1\n2\n$ true\n");
        let command = |text: &str, output: &[&str]| SessionCommand {
            command: Some(text.to_owned()),
            output: output.iter().map(|&line| line.to_owned()).collect(),
        };
        assert_eq!(found, [command("for i in 1 2\ndo echo $i; done", &["1", "2"]), command("true", &[])]);
    }
}
