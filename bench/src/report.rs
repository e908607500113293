//! What comes out: one table of figures, target beside reached, under the conditions in which they were measured.

use std::{fs, path::Path, process::Command};

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    target: String,
    reached: String,
    /// `None` where there is nothing to reach: a comparison.
    met: Option<bool>,
    beside: String,
}

impl Row {
    /// A figure that should not be smaller.
    pub fn at_least(what: impl Into<String>, target: f64, reached: f64, unit: &str) -> Self {
        Self::new(what, format!("≥ {}", number(target)), reached, unit, Some(reached >= target))
    }

    /// A figure that should be smaller.
    pub fn below(what: impl Into<String>, target: f64, reached: f64, unit: &str) -> Self {
        Self::new(what, format!("< {}", number(target)), reached, unit, Some(reached < target))
    }

    /// A figure to compare others with.
    pub fn plain(what: impl Into<String>, reached: f64, unit: &str) -> Self {
        Self::new(what, String::new(), reached, unit, None)
    }

    fn new(what: impl Into<String>, target: String, reached: f64, unit: &str, met: Option<bool>) -> Self {
        let reached = format!("{} {unit}", number(reached));
        Self { what: what.into(), target, reached, met, beside: String::new() }
    }

    /// What else was seen, such as where the time went.
    pub fn beside(mut self, text: impl Into<String>) -> Self {
        self.beside = text.into();
        self
    }
}

/// Three significant digits at least, thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints the rows of one figure as soon as they are there.
pub fn print(figure: &str, rows: &[Row]) {
    println!("\n{figure}");
    for row in rows {
        let verdict = match row.met {
            None => "·",
            Some(true) => "✓",
            Some(false) => "✗",
        };
        println!("  {verdict} {:<58} {:>12} {:>18}  {}", row.what, row.target, row.reached, row.beside);
    }
}

/// How many targets there were, and how many of them were missed.
pub fn summary(rows: &[Row]) -> (usize, usize) {
    let judged = rows.iter().filter(|row| row.met.is_some()).count();
    (judged, rows.iter().filter(|row| row.met == Some(false)).count())
}

/// The machine and the moment; figures without them say nothing.
pub fn print_conditions(folder: &Path) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_info = read("/proc/meminfo");
    let memory = memory_info.lines().next().unwrap_or_default().trim_start_matches("MemTotal:").trim();
    let disk =
        said("findmnt", &["--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "--target", &folder.to_string_lossy()]);
    let load = read("/proc/loadavg");
    let profile = if cfg!(debug_assertions) { "dev (figures of a dev build say nothing)" } else { "release" };
    println!("date      {}", said("date", &["--iso-8601=seconds"]));
    println!("machine   {cores} cores{model}, {memory}");
    println!("kernel    {}", read("/proc/sys/kernel/osrelease"));
    println!("disk      {disk}, in {}", folder.display());
    println!("load      {load}");
    println!("build     {profile}; {}", said("rustc", &["--version"]));
    println!("generator in this process, beside the programs on the same cores; CPU µs are of user and system time");
}
