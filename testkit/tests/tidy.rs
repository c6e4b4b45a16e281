//! The rules of this repository that a machine can check, run as a test over every tracked file. A rule has no list of
//! exceptions: where one does not hold, the code or the rule changes.

use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_FILE_BYTES: u64 = 5 << 20;
const MAX_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// A tracked text file.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines before the inline tests, numbered from 1.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().zip(1..).map(|(line, number)| (number, line));
        lines.take_while(|(_, line)| *line != "#[cfg(test)]")
    }

    /// The lines that are run as tests only.
    fn tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = self.is_in(&["e2e/", "testkit/"]) || self.path.contains("/tests/") || self.is_inner_tests();
        let start = if all { 0 } else { self.product().count() };
        self.text.lines().zip(1..).map(|(line, number)| (number, line)).skip(start)
    }

    /// `x/tests.rs`, the inline tests of `x.rs` in a file of their own.
    fn is_inner_tests(&self) -> bool {
        self.path.ends_with("/tests.rs")
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testkit/ is in the root").to_owned()
}

fn tracked() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    // A file deleted but not yet committed is still listed.
    names.split_terminator('\0').filter(|name| root().join(name).is_file()).map(str::to_owned).collect()
}

fn sources(extension: &str) -> Vec<Source> {
    let read = |path: String| Source { text: fs_err::read_to_string(root().join(&path)).expect("it is UTF-8"), path };
    let sources: Vec<_> = tracked().into_iter().filter(|path| path.ends_with(extension)).map(read).collect();
    assert!(!sources.is_empty(), "no file ends with {extension}");
    sources
}

fn report(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn files_are_small_enough_to_clone_and_to_read() {
    let mut offences = Vec::new();
    for path in tracked() {
        let bytes = fs_err::metadata(root().join(&path)).expect("it is there").len();
        if bytes > MAX_FILE_BYTES {
            offences.push(format!("{path} has {bytes} bytes"));
        }
    }
    for source in sources(".rs") {
        let lines = source.product().count();
        if lines > MAX_LINES {
            offences.push(format!("{} has {lines} lines before its tests", source.path));
        }
    }
    report("files of at most 5 MiB, and 500 lines of Rust: split by noun", offences);
}

#[test]
fn functions_fit_on_a_page() {
    let mut offences = Vec::new();
    for source in sources(".rs") {
        let mut open: Option<(usize, String, usize)> = None;
        for (number, line) in source.product() {
            let indent = line.len() - line.trim_start().len();
            match &open {
                Some((start, name, depth))
                    if indent == *depth && line.trim_end() == format!("{}}}", " ".repeat(indent)) =>
                {
                    if number - start + 1 > MAX_FUNCTION_LINES {
                        offences.push(format!("{}:{start}: {name} has {} lines", source.path, number - start + 1));
                    }
                    open = None;
                }
                None => {
                    if let Some(name) = function(line).filter(|_| !line.trim_end().ends_with([';', '}'])) {
                        open = Some((number, name.to_owned(), indent));
                    }
                }
                Some(_) => {}
            }
        }
    }
    report("functions of at most 70 lines", offences);
}

/// The name of the function that this line begins.
fn function(line: &str) -> Option<&str> {
    let (before, rest) = line.trim_start().split_once("fn ")?;
    let modifiers = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern", "\"C\""];
    if !before.split_whitespace().all(|word| modifiers.contains(&word)) {
        return None;
    }
    rest.split(['(', '<']).next()
}

#[test]
fn every_module_says_why_it_is_there() {
    let silent =
        sources(".rs").into_iter().filter(|source| !source.is_inner_tests() && !source.text.starts_with("//!"));
    report("a file begins with `//!`: what it is for", silent.map(|source| source.path).collect());
}

#[test]
fn modules_are_named_by_nouns_of_the_field() {
    let vague = ["mod.rs", "utils.rs", "util.rs", "common.rs", "helpers.rs", "helper.rs", "types.rs", "misc.rs"];
    let named = |path: &String| vague.contains(&path.rsplit('/').next().unwrap_or(path));
    report("these names say nothing", tracked().into_iter().filter(named).collect());
}

#[test]
fn crates_import_in_one_direction() {
    let allowed: &[(&str, &[&str])] = &[
        ("auth", &[]),
        ("bench", &["proto", "testkit"]),
        ("cache", &[]),
        ("cli", &["auth", "gateway", "searchd", "telemetry"]),
        ("e2e", &["proto", "testkit"]),
        ("gateway", &["auth", "cache", "proto", "telemetry"]),
        ("proto", &[]),
        ("searchd", &["proto", "telemetry"]),
        ("telemetry", &[]),
        ("testkit", &["proto"]),
    ];
    let mut offences = Vec::new();
    for (name, imports) in allowed {
        let manifest = fs_err::read_to_string(root().join(name).join("Cargo.toml")).expect("the crate exists");
        let product = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        for line in product.lines() {
            let Some(imported) = line.strip_prefix("nearfield-").and_then(|line| line.split(['.', ' ']).next()) else {
                continue;
            };
            if !imports.contains(&imported) {
                offences.push(format!("{name} imports {imported}"));
            }
        }
    }
    report("the map of ARCHITECTURE.md does not have these edges", offences);
}

#[test]
fn engines_stay_behind_their_seams() {
    let seams: &[(&[&str], &[&str])] = &[
        (
            &["pingora_core::", "quinn::", "h3::", "h3_quinn::"],
            &["gateway/src/listener", "testkit/", "bench/", "e2e/", "cli/src/http3"],
        ),
        (&["usearch::"], &["searchd/src/index", "searchd/examples/", "bench/"]),
    ];
    let mut offences = Vec::new();
    for source in sources(".rs") {
        for (paths, homes) in seams {
            if source.is_in(homes) || source.path.contains("/tests/") || source.is_inner_tests() {
                continue;
            }
            for (number, line) in source.product() {
                let code = line.split("//").next().unwrap_or(line);
                if paths.iter().any(|path| mentions(code, path)) {
                    offences.push(format!("{}:{number}: {}", source.path, line.trim()));
                }
            }
        }
    }
    report("a library used outside the module that hides it", offences);
}

/// Whether `code` names the crate of `path` itself, not a module or crate whose name ends alike.
fn mentions(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':')
    })
}

#[test]
fn engine_and_replication_know_no_clock_and_no_chance() {
    let banned = ["SystemTime::now", "Instant::now", "rand::", "tokio::time", "std::fs", "fs_err::"];
    let mut offences = Vec::new();
    for source in sources(".rs").into_iter().filter(|source| source.is_in(&["searchd/src/engine"])) {
        for (number, line) in source.product() {
            if banned.iter().any(|word| line.contains(word)) {
                offences.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report("time, chance and files reach the engine as arguments", offences);
}

#[test]
fn tests_wait_for_conditions_not_for_time() {
    let mut offences = Vec::new();
    for source in sources(".rs") {
        for (number, line) in source.tests() {
            if line.contains(concat!("sleep", "(")) || line.contains(concat!("#[ign", "ore")) {
                offences.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report("wait for a condition with a deadline, and leave no test out", offences);
}

#[test]
fn nothing_is_left_open() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("/wo", "rk/")];
    let mut offences = Vec::new();
    for extension in [".rs", ".toml", ".md", "Makefile", ".proto", ".yaml", ".yml", ".js", ".py"] {
        let texts = tracked().into_iter().filter(|path| path.ends_with(extension));
        for path in texts {
            let text = fs_err::read_to_string(root().join(&path)).expect("it is UTF-8");
            let lines = text.lines().zip(1..).filter(|(line, _)| marks.iter().any(|mark| line.contains(mark)));
            offences.extend(lines.map(|(line, number)| format!("{path}:{number}: {}", line.trim())));
        }
    }
    report("do it now, or file an issue", offences);
}
