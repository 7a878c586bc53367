//! Progress: bars with cells/s and time left on a terminal, plain lines otherwise, nothing when quiet. Always on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use scmmgpt_engine::train::Progress;

use crate::arguments::Global;

/// Time between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how far a command has come.
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    verbose: bool,
    started: Instant,
    printed: Instant,
    cells: usize,
}

impl Display {
    /// A display for `what`.
    pub(crate) fn new(global: &Global, what: &str) -> Display {
        let terminal = std::io::stderr().is_terminal() && !global.quiet;
        let bar = terminal.then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg} [{bar:30}] {pos}/{len} {prefix}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.to_string());
            bar
        });
        let now = Instant::now();
        Display { bar, quiet: global.quiet, verbose: global.verbose, started: now, printed: now, cells: 0 }
    }

    /// Prints a line above the bar.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Forgets the cells so far: rates are those of an epoch.
    fn restart(&mut self) {
        (self.cells, self.started) = (0, Instant::now());
    }

    fn rate(&self) -> f64 {
        self.cells as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Cells of inference that are done.
    pub(crate) fn cells(&mut self, done: usize, total: usize) {
        self.cells = done;
        let rate = self.rate();
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_prefix(format!("cells, {rate:.0} cells/s"));
        } else if self.printed.elapsed() > PLAIN_INTERVAL {
            self.printed = Instant::now();
            self.line(&format!("{done} of {total} cells, {rate:.0} cells/s"));
        }
    }

    /// An event of training.
    pub(crate) fn training(&mut self, event: &Progress) {
        match event {
            Progress::Note(text) => self.line(text),
            Progress::Stage { stage, about } => {
                self.line(&format!("stage {stage}: {about}"));
                self.restart();
            }
            Progress::Step { epoch, epochs, step, steps, cells, loss, learning_rate } => {
                self.cells += cells;
                let rate = self.rate();
                if let Some(bar) = &self.bar {
                    bar.set_length(*steps);
                    bar.set_position(*step);
                    bar.set_prefix(format!("steps, epoch {}/{epochs}, loss {loss:.4}, {rate:.0} cells/s", epoch + 1));
                } else if self.verbose {
                    self.line(&format!("step {step}/{steps} loss {loss:.5} learning rate {learning_rate:.3e} {rate:.0} cells/s"));
                }
            }
            Progress::Epoch { epoch, training_loss, validation_loss, validation_accuracy, best } => {
                let mut text = format!("epoch {:>3}  training loss {training_loss:.4}", epoch + 1);
                if let Some(loss) = validation_loss {
                    text.push_str(&format!("  validation loss {loss:.4}"));
                }
                if let Some(accuracy) = validation_accuracy {
                    text.push_str(&format!("  accuracy {accuracy:.3}"));
                }
                text.push_str(&format!("  {:.0} cells/s{}", self.rate(), if *best { "  best" } else { "" }));
                self.line(&text);
                self.restart();
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
