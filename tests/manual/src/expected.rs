//! Whether an output is what the page says. `…` stands for any text in a line, and alone on a line for any number of lines.

/// Stands for what differs from run to run.
const ANYTHING: char = '…';

/// Whether these lines are as expected.
pub(crate) fn fits(expected: &[String], actual: &[String]) -> bool {
    let Some((first, rest)) = expected.split_first() else { return actual.is_empty() };
    if first.trim() == "…" {
        return (0..=actual.len()).any(|taken| fits(rest, &actual[taken..]));
    }
    actual.split_first().is_some_and(|(line, others)| line_fits(first, line) && fits(rest, others))
}

/// How many of these lines, from the first on, are as expected; nothing when none are.
pub(crate) fn beginning_fits(expected: &[String], actual: &[String]) -> Option<usize> {
    (0..=actual.len()).find(|&taken| fits(expected, &actual[..taken]))
}

/// The lines of an output as they are compared: without colours, blanks at the end, and blank lines at its end.
pub(crate) fn lines(output: &str) -> Vec<String> {
    let plain = without_escapes(output);
    let lines = plain.lines().map(|line| line.rsplit('\r').next().unwrap_or(line).trim_end().to_owned());
    let mut lines: Vec<String> = lines.collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn line_fits(expected: &str, actual: &str) -> bool {
    let (expected, actual) = (single_spaced(expected), single_spaced(actual));
    let mut parts = expected.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = actual.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return left.is_empty() };
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

fn single_spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text without the sequences that colour it.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A sequence ends with its first letter.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsis_stands_for_text_or_lines() {
        let said = |expected: &str, actual: &str| fits(&lines(expected), &lines(actual));
        assert!(said("a\nb", "a\nb\n"));
        assert!(said("id …, at … ms", "id 17, at  3 ms"));
        assert!(said("…\nlast", "one\ntwo\nlast"));
        assert!(said("…", ""));
        assert!(said("ends …", "ends here"));
        assert!(!said("a", "a\nb"));
        assert!(!said("a …b", "a c"));
        assert!(!said("a", ""));
        assert!(!said("", "a"));
    }

    #[test]
    fn colours_do_not_count() {
        assert_eq!(lines("\u{1b}[1mbold\u{1b}[0m  \n\n"), ["bold"]);
    }

    #[test]
    fn a_beginning_is_as_short_as_it_can_be() {
        let lines = |text: &str| lines(text);
        assert_eq!(beginning_fits(&lines("…\nb"), &lines("a\nb\nb")), Some(2));
        assert_eq!(beginning_fits(&lines("c"), &lines("a\nb")), None);
    }
}
