//! Phrases that CONTRIBUTING.md replaces by plainer ones, in prose, comments, help, log lines and error texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// A phrase in small letters, and what to write instead.
const REPLACED: &[(&str, &str)] = &[
    ("whoever", "name who acts: the caller, an operator, a client"),
    ("nobody", "say what does not happen, or name who does not act"),
    ("somebody", "name who acts: a caller, an operator, a client"),
    ("trying on", "retrying"),
    ("what is", "use a noun: the rest, the backlog, its contents"),
    ("the same of", "repeat the noun"),
    ("the same for", "repeat the noun"),
    ("the same as", "like, or: equal to"),
    ("the same goes for", "also applies to"),
    ("how manieth", "sequence number"),
];

/// Kinds of files that people read.
const EXTENSIONS: [&str; 10] = ["md", "rs", "proto", "sh", "py", "js", "go", "java", "toml", "yaml"];

/// Reads the files, or all that Git tracks, and fails when one has such a phrase.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> Result<()> {
    let files = if files.is_empty() { tracked(root)? } else { files.to_vec() };
    let mut found = 0;
    for file in &files {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.display().to_string())?;
        for finding in findings(&text) {
            found += 1;
            println!("{}:{}: {:?}: {}", file.display(), finding.line, finding.phrase, finding.instead);
        }
    }
    ensure!(!files.is_empty(), "no files to read");
    if found > 0 {
        bail!("{found} phrases to replace, in {} files read", files.len());
    }
    println!("english: {} files, no phrase to replace", files.len());
    Ok(())
}

/// Files of the repository that people read. The page that lists the phrases is not among them, and neither is this file.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git").arg("ls-files").current_dir(root).output().context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    let names = String::from_utf8(output.stdout).context("names of files")?;
    let is_read = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
            && !path.ends_with("tools/xtask/src/english.rs")
            && !path.ends_with("CONTRIBUTING.md")
    };
    Ok(names.lines().map(PathBuf::from).filter(is_read).collect())
}

/// A phrase in a text.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Counted from 1.
    line: usize,
    phrase: &'static str,
    instead: &'static str,
}

fn findings(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for (phrase, instead) in REPLACED {
            let times =
                line.match_indices(phrase).filter(|(at, _)| is_whole(&line, *at, phrase.len())).count();
            found.extend((0..times).map(|_| Finding { line: index + 1, phrase, instead }));
        }
        let begins = ["// ", "/// ", "//! ", "# ", "- ", "* ", ". "];
        if begins.iter().any(|begin| line.contains(&format!("{begin}the same"))) {
            found.push(Finding { line: index + 1, phrase: "The same …", instead: "repeat the noun" });
        }
    }
    found
}

/// Whether words begin and end there.
fn is_whole(line: &str, at: usize, len: usize) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    !line[..at].ends_with(is_word) && !line[at + len..].starts_with(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases(text: &str) -> Vec<&'static str> {
        findings(text).into_iter().map(|finding| finding.phrase).collect()
    }

    #[test]
    fn phrases_are_found_as_whole_words_on_their_lines() {
        assert_eq!(phrases("Whoever asks,\nsomewhoever, nobody's"), ["whoever", "nobody"]);
        assert_eq!(findings("a\n// What is kept.")[0].line, 2);
        assert_eq!(phrases("what isolates; nobody_knows"), [""; 0]);
    }

    #[test]
    fn a_noun_behind_the_same_is_plain_english() {
        assert_eq!(phrases("both brokers have the same bytes"), [""; 0]);
        assert_eq!(phrases("/// The same, to change them."), ["The same …"]);
        assert_eq!(phrases("this does the same as that"), ["the same as"]);
    }
}
