//! One page: its blocks, run in their order in a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::addresses::{PageAddresses, listened_to};
use crate::blocks::{BlockPurpose, FencedBlock, SessionCommand, commands};
use crate::expected::{beginning_fits, fits, lines};
use crate::shell::{COMMAND_LIMIT, CommandOutcome, LOOK_PAUSE, PagePlace, PageShell, PageTerminal};
use crate::stand_ins;

/// Pause between two tries of a command that is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What a page's run consisted of.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PageFigures {
    /// Programs and scripts that ran.
    pub(crate) programs: usize,
    /// Lines of output that were compared.
    pub(crate) lines: usize,
}

/// Runs the blocks of a page below `folder`, which is empty.
///
/// # Errors
/// At the first block that does not do what the page says.
pub(crate) fn run(blocks: &[FencedBlock], folder: &Path) -> Result<PageFigures> {
    let (home, control) = (folder.join("home"), folder.join("control"));
    fs::create_dir_all(&home)?;
    fs::create_dir_all(&control)?;
    let programs = control.join("programs");
    stand_ins::write(&programs)?;
    let place = PagePlace { home, control, environment: stand_ins::environment(&programs)? };
    let mut page = PageRun {
        shell: PageShell::start(&place)?,
        place: &place,
        terminals: BTreeMap::new(),
        addresses: PageAddresses::default(),
        figures: PageFigures::default(),
    };
    let result = blocks.iter().try_for_each(|block| page.block(block));
    let figures = page.figures;
    drop(page);
    place.kill_all();
    result.map(|()| figures)
}

struct PageRun<'a> {
    place: &'a PagePlace,
    shell: PageShell,
    terminals: BTreeMap<String, PageTerminal>,
    addresses: PageAddresses,
    figures: PageFigures,
}

impl PageRun<'_> {
    fn block(&mut self, block: &FencedBlock) -> Result<()> {
        match &block.purpose {
            BlockPurpose::Shown => Ok(()),
            BlockPurpose::File(name) => self.write(name, &block.text),
            BlockPurpose::Script { terminal: None } => self.script(&block.text),
            BlockPurpose::Script { terminal: Some(name) } => self.start(name, &block.text),
            BlockPurpose::Session { terminal: None, last_exit, is_repeated } => {
                let all = commands(&block.text);
                for (at, each) in all.iter().enumerate() {
                    let exit = if at + 1 == all.len() { *last_exit } else { 0 };
                    self.command(each, exit, *is_repeated)?;
                }
                Ok(())
            }
            BlockPurpose::Session { terminal: Some(name), .. } => {
                commands(&block.text).iter().try_for_each(|each| self.at_terminal(name, each))
            }
        }
    }

    fn write(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.place.home.join(name);
        fs::create_dir_all(path.parent().context("a file in no folder")?)?;
        Ok(fs::write(path, self.addresses.filled_in(text)?)?)
    }

    /// Runs commands whose outputs do not matter; each has to succeed.
    fn script(&mut self, text: &str) -> Result<()> {
        self.figures.programs += 1;
        let text = self.addresses.filled_in(text)?;
        let ended = self.shell.run(&format!(
            "failed=0; trap 'failed=$?; line=$BASH_COMMAND' ERR\n{text}\ntrap - ERR\n\
             [ $failed = 0 ] || {{ echo \"exit code $failed: $line\"; false; }}"
        ))?;
        if ended.exit != 0 {
            bail!("fails:\n{text}\n--- it says:\n{}", ended.output);
        }
        Ok(())
    }

    fn start(&mut self, name: &str, text: &str) -> Result<()> {
        self.figures.programs += 1;
        // A terminal that is used again has ended what ran in it.
        self.terminals.remove(name);
        let text = self.addresses.filled_in(text)?;
        let terminal = PageTerminal::start(self.place, name, &text, &listened_to(&text))
            .with_context(|| format!("terminal {name}: {text}"))?;
        self.terminals.insert(name.to_owned(), terminal);
        Ok(())
    }

    /// Runs a command and compares its output, again and again if it is one that takes a moment.
    fn command(&mut self, each: &SessionCommand, exit: i32, is_repeated: bool) -> Result<()> {
        let command = each.command.as_ref().context("the output of no command")?;
        let filled = self.addresses.filled_in(command)?;
        self.figures.programs += 1;
        self.figures.lines += each.output.len();
        let begun = Instant::now();
        loop {
            let CommandOutcome { exit: ended, output } =
                self.shell.run(&filled).with_context(|| format!("$ {command}"))?;
            let mut actual = lines(&self.addresses.as_printed(&output));
            actual.retain(|line| !self.is_notice(line));
            let (is_exit, is_output) = (ended == exit, fits(&each.output, &actual));
            if is_exit && is_output {
                return Ok(());
            }
            if !is_repeated || begun.elapsed() > COMMAND_LIMIT {
                let exits = if is_exit { String::new() } else { format!(" ended with {ended}, not {exit}") };
                bail!("$ {command}{exits}\n{}", difference(&each.output, &actual));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Whether bash says that a job ended by a signal, which it says in other words at a terminal.
    fn is_notice(&self, line: &str) -> bool {
        line.starts_with(&*self.place.control.to_string_lossy()) && line.contains(": line ")
    }

    /// Starts something in a terminal if there is a command, and waits for what the terminal shows then. A line `^C` interrupts it.
    fn at_terminal(&mut self, name: &str, each: &SessionCommand) -> Result<()> {
        if let Some(command) = &each.command {
            self.start(name, command)?;
        }
        let terminal = self.terminals.get_mut(name).with_context(|| format!("no terminal {name}"))?;
        for part in each.output.split_inclusive(|line| line.trim() == "^C") {
            let (is_interrupted, part) = match part.split_last() {
                Some((last, before)) if last.trim() == "^C" => (true, before),
                _ => (false, part),
            };
            self.figures.lines += part.len();
            shows(terminal, &self.addresses, part).with_context(|| format!("terminal {name}"))?;
            if is_interrupted {
                terminal.interrupt().with_context(|| format!("terminal {name}"))?;
            }
        }
        Ok(())
    }
}

/// Waits until a terminal shows these lines, from those on that the page has shown before.
fn shows(terminal: &mut PageTerminal, addresses: &PageAddresses, expected: &[String]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let all = lines(&addresses.as_printed(&terminal.text()));
        let actual = all.get(terminal.shown..).unwrap_or_default();
        if let Some(taken) = beginning_fits(expected, actual) {
            terminal.shown += taken;
            return Ok(());
        }
        if begun.elapsed() > COMMAND_LIMIT {
            bail!("{}", difference(expected, actual));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn difference(expected: &[String], actual: &[String]) -> String {
    format!("--- the page says:\n{}\n--- it was:\n{}", expected.join("\n"), actual.join("\n"))
}
