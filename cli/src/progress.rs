//! Progress of long work, on stderr and only where that is a terminal: stdout belongs to results.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Bar of an amount of bytes, with rate and time left.
const BYTES: &str =
    "{msg:<28} {bar:24} {decimal_bytes:>10}/{decimal_total_bytes:<10} {decimal_bytes_per_sec:>12} {eta}";
/// Bar of a number of things, with time left.
const COUNT: &str = "{msg:<28} {bar:24} {human_pos:>10}/{human_len:<10} {per_sec:>12} {eta}";
/// Something under way whose end is not known.
const SPINNER: &str = "{msg:<28} {spinner} {elapsed}";

/// One line of progress; it disappears when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// `label` and a bar over `total` bytes.
    pub fn bytes(label: &str, total: u64) -> Self {
        Self(ProgressBar::new(total).with_style(style(BYTES)).with_message(label.to_owned()))
    }

    /// `label` and a bar over `total` things.
    pub fn count(label: &str, total: u64) -> Self {
        Self(ProgressBar::new(total).with_style(style(COUNT)).with_message(label.to_owned()))
    }

    /// `label` and a sign of life.
    pub fn spinner(label: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_style(style(SPINNER)).with_message(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Nothing on the screen, for tests.
    #[cfg(test)]
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Sets the length of the bar, once it is known.
    pub fn set_total(&self, total: u64) {
        self.0.set_length(total);
    }

    /// Changes the label.
    pub fn say(&self, label: String) {
        self.0.set_message(label);
    }

    /// Prints a line on standard error, above the bar where there is one.
    pub fn note(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    /// Moves the bar to `done` of its total.
    pub fn set(&self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The style of a template of this file; a template indicatif cannot read would only lose its looks.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌")
}
