//! Every format gives back what was written to it, whole and from the middle.

use std::path::Path;

use anyhow::{Context, Result};
use nearfield_cli::format::{self, Hints, Point};
use serde_json::value::RawValue;

fn point(number: usize) -> Point {
    let metadata = format!("{{\"n\":{number},\"big\":12345678901234567890,\"s\":\"é\\n\"}}");
    let metadata = Some(metadata).filter(|_| !number.is_multiple_of(3));
    let metadata = metadata.map(|text| RawValue::from_string(text).expect("it is JSON"));
    let values = (0..17).map(|i| (number * 17 + i) as f32 * 0.1 - 3.0).collect();
    Point { id: format!("point/{number} é"), values, metadata, version: Some(number as u64 + 1) }
}

fn write(path: &Path, points: usize) -> Result<()> {
    let mut sink = format::create(path)?;
    (0..points).try_for_each(|number| sink.write(&point(number)))?;
    sink.finish()
}

fn check(name: &str, points: usize, skip: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(name);
    write(&path, points)?;
    let mut source = format::open(&path, &Hints::default())?;
    assert_eq!(source.dimension(), Some(17));
    source.skip(skip as u64)?;
    for number in skip..points {
        let (read, written) = (source.next()?.context("a point")?, point(number));
        assert_eq!((read.id, read.values), (written.id, written.values), "{name} {number}");
        let text = |metadata: &Option<Box<RawValue>>| {
            metadata.as_ref().map(|m| serde_json::from_str::<serde_json::Value>(m.get()).expect("it is JSON"))
        };
        assert_eq!(text(&read.metadata), text(&written.metadata), "{name} {number}");
    }
    assert!(source.next()?.is_none());
    assert_eq!(source.total(), Some(points as u64), "{name}");
    Ok(())
}

#[test]
fn what_is_written_is_read() {
    for name in ["x.jsonl", "x.npy", "x.fvecs", "x.parquet"] {
        for (points, skip) in [(1, 0), (100, 0), (100, 1), (100, 64), (100, 99), (100, 100)] {
            check(name, points, skip).unwrap();
        }
    }
}

#[test]
fn a_file_without_points_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x.jsonl", "x.fvecs", "x.parquet"] {
        let path = folder.path().join(name);
        write(&path, 0).unwrap();
        let mut source = format::open(&path, &Hints::default()).unwrap();
        assert_eq!(source.dimension(), None, "{name}");
        assert!(source.next().unwrap().is_none(), "{name}");
    }
}

#[test]
fn other_endings_and_other_contents_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs_err::write(&path, content).unwrap();
        format!("{:#}", format::open(&path, &Hints::default()).err().expect("it is refused"))
    };
    assert!(error("x.csv", b"a,b").contains(".parquet is expected"));
    assert!(error("x.npy", b"PK").contains("no .npy file"));
    assert!(error("x.parquet", b"PAR1").contains("x.parquet"));
    assert!(error("x.jsonl", b"{").contains("line 1"));
    let missing = format::open(&folder.path().join("y.npy"), &Hints::default()).err().expect("it is refused");
    assert!(missing.to_string().contains("there is no file"), "{missing}");
}

/// As pandas and pyarrow write it: nullable lists, a nullable text, other columns beside.
#[test]
fn a_file_of_pyarrow_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pyarrow.parquet");
    let mut source = format::open(&path, &Hints::default()).unwrap();
    let first = source.next().unwrap().expect("a point");
    assert_eq!((first.id.as_str(), first.values), ("a", vec![0.5, -1.0, 2.0]));
    let metadata: serde_json::Value = serde_json::from_str(first.metadata.expect("columns").get()).unwrap();
    assert_eq!(metadata, serde_json::json!({"year": 2020, "title": "one", "score": 0.5, "good": true}));
    let second = source.next().unwrap().expect("a point");
    let metadata: serde_json::Value = serde_json::from_str(second.metadata.expect("columns").get()).unwrap();
    assert_eq!((second.id.as_str(), metadata), ("b", serde_json::json!({"year": 2021, "score": 1.5, "good": false})));
    let error = source.next().expect_err("the third row has no vector");
    assert!(format!("{error:#}").contains("row 2"), "{error:#}");
}
