//! A bar on a terminal while tasks restore, and log lines that do not run into it.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// How often the bar is drawn anew.
const DRAWS_PER_SECOND: u8 = 5;

/// The bar; nothing where stderr is not a terminal. Clones draw the same one.
#[derive(Clone)]
pub struct RestoreBar(ProgressBar);

impl RestoreBar {
    pub fn on_stderr() -> RestoreBar {
        RestoreBar(ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)))
    }

    /// Whether anybody would see it.
    pub fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// `left` offsets of changelogs are still to be read; 0: the bar goes.
    pub fn show(&self, left: u64) {
        let total = self.0.length().unwrap_or(0);
        if left == 0 {
            if total > 0 {
                self.0.set_length(0);
                self.0.set_position(0);
                self.0.finish_and_clear();
            }
            return;
        }
        if total == 0 {
            // A template of ours; the default stays if it cannot be read.
            if let Ok(style) = ProgressStyle::with_template("restoring {wide_bar} {percent} %  {human_pos} of {human_len}  {eta} left") {
                self.0.set_style(style);
            }
            self.0.reset();
            self.0.enable_steady_tick(Duration::from_millis(500));
        }
        // Tasks come one after the other: the whole is the most that was ever left.
        let total = total.max(left);
        self.0.set_length(total);
        self.0.set_position(total - left);
    }
}

/// Writes log lines to stderr above the bar.
impl<'a> MakeWriter<'a> for RestoreBar {
    type Writer = AboveBar;

    fn make_writer(&'a self) -> AboveBar {
        AboveBar(self.0.clone())
    }
}

/// stderr, with the bar out of the way while something is written.
pub struct AboveBar(ProgressBar);

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
