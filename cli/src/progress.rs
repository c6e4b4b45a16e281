//! How far a transfer is: a bar where somebody watches, a line now and then where a log does.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// Between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    start: Instant,
    said: Instant,
    /// Points that were there before this run.
    from: u64,
    points: u64,
    total: Option<u64>,
}

impl Progress {
    /// Begins behind the first `from` points.
    pub(crate) fn start(from: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} points, {per_sec}, {eta} left")
                    .expect("the template is a constant");
            ProgressBar::new(0).with_style(style).with_position(from)
        });
        if let Some(bar) = &bar {
            bar.reset_eta();
        }
        let now = Instant::now();
        Self { bar, start: now, said: now, from, points: from, total: None }
    }

    /// `points` are done, of `total` or so.
    pub(crate) fn reach(&mut self, points: u64, total: Option<u64>) {
        self.points = points;
        self.total = total;
        match &self.bar {
            Some(bar) => {
                bar.set_length(total.unwrap_or(points));
                bar.set_position(points);
            }
            None if self.said.elapsed() >= LINE_EVERY => {
                self.said = Instant::now();
                eprintln!("{self}");
            }
            None => {}
        }
    }

    /// Ends it; the summary of what this run did.
    pub(crate) fn finish(self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let points = self.points - self.from;
        let seconds = self.start.elapsed().as_secs_f64();
        format!("{} points in {seconds:.1} s, {} a second", HumanCount(points), HumanCount(per_second(points, seconds)))
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", HumanCount(self.points))?;
        if let Some(total) = self.total {
            write!(f, " of {}", HumanCount(total))?;
        }
        let rate = per_second(self.points - self.from, self.start.elapsed().as_secs_f64());
        write!(f, " points, {} a second", HumanCount(rate))
    }
}

fn per_second(points: u64, seconds: f64) -> u64 {
    (points as f64 / seconds.max(0.001)) as u64
}
