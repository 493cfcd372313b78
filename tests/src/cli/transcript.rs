//! A transcript: a file of commands and their expected answers, which is played.
//!
//! `$ WORDS` runs mqadmin, `% WORDS` runs it with `--output json`; 'words in quotes' are one word. Lines `| TEXT` before a
//! command are its standard input. Lines behind it are expectations: `! N` is the exit code (0 without), `> TEXT` and `< TEXT`
//! are parts of its output and of its errors, `? POINTER VALUE` is the value at a place of the JSON (`*`: any), and
//! `= NAME POINTER` stores one as `{NAME}` for later commands. `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::CliSuiteOptions;
use super::cluster::{CliCluster, Said};

/// Commands that [`super::screen`] tries in a terminal.
const ELSEWHERE: [&str; 2] = ["tail", "top"];
/// A command is repeated for this time until its answer is as expected.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks that every command shows its usage with an example, under each of its names.
pub(super) fn help(cluster: &CliCluster) -> Result<String> {
    let commands = cluster.json("commands")?;
    let (mut tried, mut wrong) = (0, Vec::new());
    for command in commands["commands"].as_array().into_iter().flatten() {
        let grouped = command["command"].as_str().unwrap_or_default().to_owned();
        let flat =
            command["names"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        for name in std::iter::once(grouped).chain(flat) {
            let words: Vec<String> =
                name.split(' ').map(str::to_owned).chain(["--help".to_owned()]).collect();
            let said = cluster.run(&words, "")?;
            tried += 1;
            if said.code != 0 || !said.out.contains("Usage:") || !said.out.contains("Example: mqadmin") {
                wrong.push(name);
            }
        }
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        ensure!(cluster.ok(&format!("completion {shell}"))?.contains("mqadmin"), "no completion for {shell}");
    }
    ensure!(wrong.is_empty() && tried > 100, "{} of {tried} do not: {}", wrong.len(), wrong.join(", "));
    Ok(format!("{tried} names, and completion for five shells"))
}

/// One command with what it is to answer.
#[derive(Debug, Default)]
struct Step {
    line: usize,
    words: Vec<String>,
    input: String,
    is_json: bool,
    code: i32,
    out: Vec<String>,
    err: Vec<String>,
    values: Vec<(String, String)>,
    kept: Vec<(String, String)>,
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut input = String::new();
    for (number, line) in text.lines().enumerate() {
        let Some((mark, rest)) = line.split_once(' ') else { continue };
        if let "$" | "%" = mark {
            let is_json = mark == "%";
            let words = words(rest);
            steps.push(Step {
                line: number + 1,
                words,
                input: std::mem::take(&mut input),
                is_json,
                ..Step::default()
            });
            continue;
        }
        if mark == "|" {
            input.push_str(rest);
            input.push('\n');
            continue;
        }
        if mark == "#" {
            continue;
        }
        let step = steps.last_mut().with_context(|| format!("line {}: nothing was typed yet", number + 1))?;
        let pair = || rest.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
        match mark {
            "!" => step.code = rest.parse().with_context(|| format!("line {}", number + 1))?,
            ">" => step.out.push(rest.to_owned()),
            "<" => step.err.push(rest.to_owned()),
            "?" => step.values.push(pair().with_context(|| format!("line {}", number + 1))?),
            "=" => step.kept.push(pair().with_context(|| format!("line {}", number + 1))?),
            other => bail!("line {}: {other:?} is no mark", number + 1),
        }
    }
    Ok(steps)
}

/// Words of a line; those in quotes are one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Plays the transcript: every command is in it, and all answer as they are to.
pub(super) async fn play(cluster: &mut CliCluster, options: &CliSuiteOptions) -> Result<String> {
    let text = std::fs::read_to_string(&options.transcript)
        .with_context(|| format!("reading {}", options.transcript.display()))?;
    let steps = parse(&text)?;
    let mut variables = BTreeMap::from([
        ("NAMESERVER".to_owned(), cluster.address()?.to_owned()),
        ("BROKER_A".to_owned(), cluster.master("broker-a").await?),
        ("BROKER_B".to_owned(), cluster.master("broker-b").await?),
    ]);
    let mut wrong = Vec::new();
    for step in &steps {
        if let Err(error) = take(cluster, step, &mut variables) {
            wrong.push(format!("line {}, mqadmin {}: {error:#}", step.line, step.words.join(" ")));
        }
    }
    wrong.extend(unused(cluster, &steps)?.into_iter().map(|name| format!("mqadmin {name} is never used")));
    ensure!(wrong.is_empty(), "{} are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(format!("{} commands typed", steps.len()))
}

/// Tries a step; questions are asked again for a while.
fn take(cluster: &CliCluster, step: &Step, variables: &mut BTreeMap<String, String>) -> Result<()> {
    let mut words: Vec<String> = step.words.iter().map(|word| filled(word, variables)).collect();
    if step.is_json {
        words.extend(["--output".to_owned(), "json".to_owned()]);
    }
    let started = Instant::now();
    loop {
        let said = cluster.run(&words, &filled(&step.input, variables))?;
        match compare(step, &said, variables) {
            Ok(kept) => {
                variables.extend(kept);
                return Ok(());
            }
            // What was sent or changed must be right at once.
            Err(error)
                if step.values.is_empty() || said.code != step.code || started.elapsed() > PATIENCE =>
            {
                return Err(error);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn filled(word: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(word.to_owned(), |word, (name, value)| word.replace(&format!("{{{name}}}"), value))
}

fn compare(step: &Step, said: &Said, variables: &BTreeMap<String, String>) -> Result<Vec<(String, String)>> {
    let all = || format!("{}{}", said.out, said.err);
    ensure!(said.code == step.code, "exit code {} in place of {}: {}", said.code, step.code, all());
    for wanted in &step.out {
        let wanted = filled(wanted, variables);
        ensure!(said.out.contains(&wanted), "the output lacks {wanted:?}: {}", all());
    }
    for wanted in &step.err {
        let wanted = filled(wanted, variables);
        ensure!(said.err.contains(&wanted), "the errors lack {wanted:?}: {}", all());
    }
    if !step.is_json {
        return Ok(Vec::new());
    }
    let text = if said.code == 0 || !said.out.is_empty() { &said.out } else { &said.err };
    let json: Value = serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))?;
    let at = |pointer: &str| -> Result<String> {
        let value = json.pointer(pointer).with_context(|| format!("nothing at {pointer} of {json:#}"))?;
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    for (pointer, wanted) in &step.values {
        let found = at(pointer)?;
        let wanted = filled(wanted, variables);
        ensure!(wanted == "*" || found == wanted, "{pointer} is {found} in place of {wanted}");
    }
    let kept = step.kept.iter().map(|(name, pointer)| Ok((name.clone(), at(pointer)?)));
    kept.collect()
}

/// Commands that no step uses.
fn unused(cluster: &CliCluster, steps: &[Step]) -> Result<Vec<String>> {
    let used: BTreeSet<String> = steps
        .iter()
        .flat_map(|step| {
            let two = step.words.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
            [step.words.first().cloned().unwrap_or_default(), two]
        })
        .collect();
    let commands = cluster.json("commands")?;
    let mut unused = Vec::new();
    for command in commands["commands"].as_array().into_iter().flatten() {
        let name = command["command"].as_str().unwrap_or_default();
        let flat = command["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let is_used = std::iter::once(name).chain(flat).any(|name| used.contains(name));
        if !is_used && !ELSEWHERE.contains(&name) {
            unused.push(name.to_owned());
        }
    }
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_understood() {
        let steps = parse(
            "# x\n| in\n$ topic create -t 'a b'\n! 4\n> out\n< err\n\n% topic list\n? /a/0 *\n= ID /b c\n",
        )
        .unwrap();
        assert_eq!(steps[0].words, ["topic", "create", "-t", "a b"]);
        assert_eq!((steps[0].code, steps[0].input.as_str(), steps[0].is_json), (4, "in\n", false));
        assert_eq!(
            (steps[0].out.as_slice(), steps[0].err.as_slice()),
            (&["out".to_owned()][..], &["err".to_owned()][..])
        );
        assert!(steps[1].is_json && steps[1].values.len() == 1 && steps[1].kept.len() == 1);
        assert!(parse("> out").is_err() && parse("$ x\n~ y").is_err());
    }
}
