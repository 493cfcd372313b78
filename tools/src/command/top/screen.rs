//! How it looks: a line on top, one of four tables, and the keys.

use super::seen::Seen;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::table as plain_table;
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

/// Characters of a name that a small window still shows.
const NAME_WIDTH: u16 = 24;

/// A view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Brokers,
    Topics,
    Groups,
    Transactions,
}

/// By which column a view is in order, largest first; by name at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sorting(usize);

/// A column: its title, and whether it holds numbers.
type Column = (&'static str, bool);

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Brokers, Self::Topics, Self::Groups, Self::Transactions];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Brokers => "Brokers",
            Self::Topics => "Topics",
            Self::Groups => "Groups",
            Self::Transactions => "Transactions",
        }
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::Brokers => &[
                ("Broker", false),
                ("State", false),
                ("In/s", true),
                ("Out/s", true),
                ("CPU %", true),
                ("Memory MiB", true),
                ("Disk free %", true),
                ("Clients", true),
                ("Undecided", true),
                ("Scheduled", true),
            ],
            Self::Topics => &[
                ("Topic", false),
                ("In/s", true),
                ("Messages", true),
                ("Undecided", true),
                ("Scheduled", true),
            ],
            Self::Groups => &[
                ("Group", false),
                ("Topic", false),
                ("Lag", true),
                ("Out/s", true),
                ("In flight", true),
                ("Retrying", true),
                ("Blocked", true),
            ],
            Self::Transactions => &[("Topic", false), ("Prepared", true), ("Parked", true)],
        }
    }

    /// The cells of all rows, in order.
    fn rows(self, seen: &Seen, sorting: Sorting) -> Vec<Vec<String>> {
        let rate = |rate: f64| format!("{rate:.0}");
        let mut rows: Vec<Vec<String>> = match self {
            Self::Brokers => seen
                .brokers
                .iter()
                .map(|broker| {
                    vec![
                        broker.name.clone(),
                        broker.state.clone(),
                        rate(broker.in_per_second),
                        rate(broker.out_per_second),
                        rate(broker.cpu_percent),
                        (broker.resident_bytes >> 20).to_string(),
                        broker.disk_free_percent.to_string(),
                        broker.clients.to_string(),
                        broker.undecided.to_string(),
                        broker.scheduled.to_string(),
                    ]
                })
                .collect(),
            Self::Topics => seen
                .topics
                .iter()
                .map(|(name, topic)| {
                    vec![
                        name.clone(),
                        rate(topic.in_per_second),
                        topic.messages.to_string(),
                        topic.undecided.to_string(),
                        topic.scheduled.to_string(),
                    ]
                })
                .collect(),
            Self::Groups => seen
                .groups
                .iter()
                .map(|((name, topic), group)| {
                    vec![
                        name.clone(),
                        topic.clone(),
                        group.lag.to_string(),
                        rate(group.out_per_second),
                        group.in_flight.to_string(),
                        group.retrying.to_string(),
                        group.blocked.to_string(),
                    ]
                })
                .collect(),
            Self::Transactions => seen
                .transactions
                .iter()
                .map(|(topic, count)| {
                    vec![topic.clone(), count.prepared.to_string(), count.parked.to_string()]
                })
                .collect(),
        };
        if self.columns()[sorting.0].1 {
            rows.sort_by_key(|row| std::cmp::Reverse(row[sorting.0].parse::<u64>().unwrap_or(0)));
        } else {
            rows.sort_by(|a, b| a[sorting.0].cmp(&b[sorting.0]));
        }
        rows
    }

    /// The view as text.
    pub(super) fn text(self, seen: &Seen, sorting: Sorting) -> String {
        let header: Vec<&str> = self.columns().iter().map(|(title, _)| *title).collect();
        plain_table(&header, self.rows(seen, sorting))
    }
}

/// The screen, and the last sight.
pub(super) struct Screen {
    seen: Seen,
    trouble: Option<CommandFailure>,
    tab: Tab,
    sorting: [Sorting; 4],
    place: TableState,
}

impl Screen {
    pub(super) fn new(seen: Seen) -> Self {
        let place = TableState::default().with_selected(0);
        Self { seen, trouble: None, tab: Tab::Brokers, sorting: [Sorting::default(); 4], place }
    }

    /// Takes a new sight; without one, the last sight stays, and the trouble is shown.
    pub(super) fn take(&mut self, seen: Result<Seen>) {
        match seen {
            Ok(seen) => {
                self.seen = seen.since(&self.seen);
                self.trouble = None;
            }
            Err(failure) => self.trouble = Some(failure),
        }
    }

    pub(super) fn press(&mut self, key: KeyCode) {
        let at = Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0);
        match key {
            KeyCode::Tab | KeyCode::Right => self.show(at + 1),
            KeyCode::BackTab | KeyCode::Left => self.show(at + Tab::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.show(digit as usize - '1' as usize),
            KeyCode::Char('s') => {
                let columns = self.tab.columns().len();
                self.sorting[at] = Sorting((self.sorting[at].0 + 1) % columns);
            }
            KeyCode::Down => self.place.select_next(),
            KeyCode::Up => self.place.select_previous(),
            KeyCode::PageDown => self.place.scroll_down_by(20),
            KeyCode::PageUp => self.place.scroll_up_by(20),
            KeyCode::Home => self.place.select_first(),
            _ => {}
        }
    }

    fn show(&mut self, at: usize) {
        self.tab = Tab::ALL[at % Tab::ALL.len()];
        self.place.select_first();
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [top, middle, bottom] =
            Layout::vertical([Constraint::Length(2), Constraint::Min(3), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Paragraph::new(vec![self.summary(), self.tabs()]), top);
        let at = Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0);
        let sorting = self.sorting[at];
        let columns = self.tab.columns();
        let rows = self.tab.rows(&self.seen, sorting);
        let widths = columns.iter().enumerate().map(|(column, (title, is_number))| {
            let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let width = u16::try_from(longest.max(title.len() + 1)).unwrap_or(u16::MAX);
            match (column, *is_number) {
                // In a small window names matter most.
                (0, _) => Constraint::Min(width.min(NAME_WIDTH)),
                (_, true) => Constraint::Length(width),
                (_, false) => Constraint::Max(width.max(12)),
            }
        });
        let header = columns.iter().enumerate().map(|(column, (title, _))| {
            let mark = if column == sorting.0 { "▾" } else { "" };
            Cell::from(format!("{title}{mark}"))
        });
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let bad = Style::new().fg(Color::Red);
        let body = rows.iter().map(|row| {
            let is_bad = self.tab == Tab::Brokers && row[1] != "ok";
            Row::new(row.iter().map(|cell| Cell::from(cell.clone()))).style(if is_bad {
                bad
            } else {
                Style::new()
            })
        });
        let table = Table::new(body, widths)
            .header(Row::new(header).style(bold))
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, middle, &mut self.place);
        frame.render_widget(Paragraph::new(self.foot()), bottom);
    }

    fn summary(&self) -> Line<'_> {
        let seen = &self.seen;
        let (came, went) = seen.brokers.iter().fold((0.0, 0.0), |(came, went), broker| {
            (came + broker.in_per_second, went + broker.out_per_second)
        });
        let lag: u64 = seen.groups.values().map(|group| group.lag).sum();
        let undecided: u64 = seen.brokers.iter().map(|broker| broker.undecided).sum();
        Line::from(format!(
            "kerolox  {} brokers  in {came:.0}/s  out {went:.0}/s  lag {lag}  undecided {undecided}",
            seen.brokers.len()
        ))
    }

    fn tabs(&self) -> Line<'static> {
        let title = |(number, tab): (usize, &Tab)| {
            let style =
                if *tab == self.tab { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            Span::styled(format!(" {} {} ", number + 1, tab.title()), style)
        };
        Line::from(Tab::ALL.iter().enumerate().map(title).collect::<Vec<_>>())
    }

    fn foot(&self) -> Line<'_> {
        match &self.trouble {
            Some(failure) => Line::styled(failure.message.as_str(), Style::new().fg(Color::Red)),
            None => Line::from("Tab, 1-4 view  s order  ↑↓ scroll  q end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::{Group, Topic};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(90, 12)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn example() -> Seen {
        let mut seen = Seen::nothing();
        for (name, messages) in [("few", 3), ("many", 300)] {
            seen.topics.insert(name.into(), Topic { messages, ..Default::default() });
        }
        seen.groups.insert(("billing".into(), "many".into()), Group { lag: 42, ..Default::default() });
        seen
    }

    #[test]
    fn keys_change_the_view_and_its_order() {
        let mut screen = Screen::new(example());
        assert!(drawn(&mut screen).contains("lag 42"));
        screen.press(KeyCode::Char('2'));
        let by_name = drawn(&mut screen);
        assert!(by_name.find("few").unwrap() < by_name.find("many").unwrap(), "{by_name}");
        screen.press(KeyCode::Char('s'));
        screen.press(KeyCode::Char('s'));
        let by_messages = drawn(&mut screen);
        assert!(by_messages.find("many").unwrap() < by_messages.find("few").unwrap(), "{by_messages}");
        screen.press(KeyCode::Tab);
        assert!(drawn(&mut screen).contains("billing"));
        screen.press(KeyCode::Tab);
        screen.press(KeyCode::Tab);
        assert_eq!(screen.tab, Tab::Brokers);
    }

    #[test]
    fn trouble_is_shown_and_the_last_sight_stays() {
        let mut screen = Screen::new(example());
        screen.take(Err(CommandFailure::failed("no nameserver answered")));
        let shown = drawn(&mut screen);
        assert!(shown.contains("no nameserver answered") && shown.contains("lag 42"), "{shown}");
        screen.take(Ok(example()));
        assert!(!drawn(&mut screen).contains("no nameserver"));
    }
}
