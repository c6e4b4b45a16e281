//! The log holds what was done, in order, through restarts and crashes; and tells when it was tampered with.

use std::io::Write;
use std::path::Path;

use super::chain::{Broken, verify};
use super::*;

fn config(directory: &Path) -> Config {
    Config { directory: Some(directory.to_owned()), ..Config::default() }
}

fn open(config: &Config) -> Audit {
    Audit::open(config, &mut Registry::default()).unwrap()
}

fn act(n: usize) -> Act {
    let tenant = n.is_multiple_of(2).then(|| "even".to_owned());
    Act {
        subject: format!("s{n}"),
        tenant,
        action: "keys.create",
        target: n.to_string(),
        status: 201,
        ..Act::default()
    }
}

/// What pages of `limit` tell, as the targets of their acts.
async fn targets(audit: &Audit, tenant: Option<&str>, limit: usize) -> Vec<String> {
    let (mut told, mut before) = (Vec::new(), None);
    loop {
        let page = audit.page(tenant.map(str::to_owned), before, limit).await.unwrap().unwrap();
        assert!(page.acts.len() <= limit);
        for act in &page.acts {
            let act: serde_json::Value = serde_json::from_str(act.get()).unwrap();
            told.push(act["target"].as_str().unwrap().to_owned());
        }
        let Some(next) = page.next else { return told };
        before = Some(next);
    }
}

fn down(numbers: impl DoubleEndedIterator<Item = usize>) -> Vec<String> {
    numbers.rev().map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn acts_are_told_by_pages_and_to_each_tenant_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&config(dir.path()));
    for n in 0..9 {
        audit.record(act(n)).await;
    }
    assert_eq!(targets(&audit, None, 4).await, down(0..9));
    assert_eq!(targets(&audit, Some("even"), 2).await, down((0..9).step_by(2)));
    assert_eq!(targets(&audit, Some("nobody"), 2).await, Vec::<String>::new());
    assert_eq!(verify(dir.path()).unwrap().acts, 9);
    assert!(open(&Config::default()).page(None, None, 1).await.unwrap().is_none());
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_and_after_half_a_line() {
    let dir = tempfile::tempdir().unwrap();
    open(&config(dir.path())).record(act(0)).await;
    let file = files::list(dir.path()).unwrap().remove(0);
    fs_err::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"seq\":2,\"ti").unwrap();
    let audit = open(&config(dir.path()));
    audit.record(act(1)).await;
    assert_eq!(targets(&audit, None, 10).await, ["1", "0"]);
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.acts, found.first), (2, 1));
}

#[tokio::test]
async fn old_files_go_and_the_rest_still_holds_together() {
    let dir = tempfile::tempdir().unwrap();
    let small = Config { file_bytes: 1_000, max_files: 3, ..config(dir.path()) };
    let audit = open(&small);
    for n in 0..40 {
        audit.record(act(n)).await;
    }
    assert_eq!(files::list(dir.path()).unwrap().len(), 3);
    let found = verify(dir.path()).unwrap();
    assert_eq!(found.first + found.acts - 1, 40);
    assert!(found.first > 1);
    assert_eq!(targets(&audit, None, 7).await, down(found.first as usize - 1..40));
    // So it does after a restart.
    drop(audit);
    open(&small).record(act(40)).await;
    assert!(verify(dir.path()).is_ok());
}

#[tokio::test]
async fn many_at_once_are_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&config(dir.path()));
    let acts = (0..500).map(|n| {
        let audit = audit.clone();
        tokio::spawn(async move { audit.record(act(n)).await })
    });
    for done in acts.collect::<Vec<_>>() {
        done.await.unwrap();
    }
    assert_eq!(verify(dir.path()).unwrap().acts, 500);
}

#[tokio::test]
async fn two_processes_write_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let small = Config { file_bytes: 1_000, ..config(dir.path()) };
    let (old, new) = (open(&small), open(&small));
    for n in 0..20 {
        old.record(act(2 * n)).await;
        new.record(act(2 * n + 1)).await;
    }
    assert_eq!(verify(dir.path()).unwrap().acts, 40);
    assert_eq!(targets(&new, None, 9).await, down(0..40));
}

#[tokio::test]
async fn what_was_changed_removed_or_put_in_shows() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(&config(dir.path()));
    for n in 0..4 {
        audit.record(act(n)).await;
    }
    drop(audit);
    let file = files::list(dir.path()).unwrap().remove(0);
    let good = fs_err::read_to_string(&file).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let broken_at = |text: String| {
        fs_err::write(&file, text).unwrap();
        match verify(dir.path()) {
            Err(Broken::Line { line, .. }) => line,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(broken_at(good.replace("\"s1\"", "\"s9\"")), 2);
    assert_eq!(broken_at(format!("{}\n{}\n{}\n", lines[0], lines[2], lines[3])), 2);
    assert_eq!(broken_at(format!("{}\n{}\n{}\n", lines[0], lines[1], lines[1])), 3);
    assert_eq!(broken_at(format!("{}\n{}\n", lines[1], lines[0])), 2);
    // A log whose last line is not its own is not gone on with.
    fs_err::write(&file, good.replace("\"s3\"", "\"s9\"")).unwrap();
    assert!(Audit::open(&config(dir.path()), &mut Registry::default()).is_err());
    fs_err::write(&file, good).unwrap();
    assert!(verify(dir.path()).is_ok());
}
