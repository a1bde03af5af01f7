//! What the tool says about itself while it works: on standard error, so that standard output
//! is the guest's serial port and nothing else.
//!
//! Colours and moving progress appear only on a terminal.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use anstyle::{AnsiColor, Color, Style};

const fn bold(color: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(Color::Ansi(color)))
}

/// Says what is being done: a verb, and of what.
pub fn status(verb: &str, what: impl Display) {
    let style = bold(AnsiColor::Green);
    anstream::eprintln!("{style}{verb:>12}{style:#} {what}");
}

/// Says what is good to know, and no reason to stop.
pub fn note(what: impl Display) {
    let style = bold(AnsiColor::Cyan);
    anstream::eprintln!("{style}note{style:#}: {what}");
}

/// Says why the tool stops.
pub fn error(what: impl Display) {
    let style = bold(AnsiColor::Red);
    anstream::eprintln!("{style}error{style:#}: {what}");
}

/// Whether a person is there to be asked.
#[must_use]
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && OpenOptions::new().write(true).open("/dev/tty").is_ok()
}

/// Asks a question whose answer is yes unless the person says otherwise. Speaks to the
/// terminal itself, so that it works while output is captured; no terminal means no.
#[must_use]
pub fn confirm(question: &str) -> bool {
    static ONE_QUESTION_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_QUESTION_AT_A_TIME.lock();
    let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else {
        return false;
    };
    let mut answer = String::new();
    let asked = write!(terminal, "{question} [Y/n] ").and_then(|()| terminal.flush());
    let read = asked.and_then(|()| BufReader::new(terminal).read_line(&mut answer));
    match read {
        Ok(0) | Err(_) => false,
        Ok(_) => matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes"),
    }
}

/// A sign of life on a terminal for something that takes a while; gone when dropped.
#[derive(Debug)]
pub struct Spinner(indicatif::ProgressBar);

impl Spinner {
    /// Starts turning, beside `what`.
    #[must_use]
    pub fn start(what: impl Display) -> Self {
        let bar = indicatif::ProgressBar::new_spinner();
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
