//! Rows kept in fewer bytes than floats have come from object storage as whatever they are, a block at a time.

use std::time::Duration;

use nearfield_proto::v1;
use nearfield_testkit::{ObjectStorage, eventually};

use crate::arriving::{missing, starting, with_one_segment};
use crate::backup::{archived, backup, metric};
use crate::process::Served;
use crate::running::point;

const PATIENCE: Duration = Duration::from_secs(120);
const DIMENSION: usize = 96;
const ROWS: usize = 9_216;
const BATCH: usize = 1_024;
/// Collections whose values fit into a byte, into a signed one, and into half a float, with the bytes that each value takes.
const FORMS: [(&str, usize); 3] = [("bytes", 1), ("signed", 1), ("halves", 2)];

/// A row whose values fit into the form, and into no narrower one.
fn values(form: &str, row: usize) -> Vec<f32> {
    let mut state = (row as u32 + 1).wrapping_mul(2_654_435_761);
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as f32
    };
    let of = |byte: f32| match form {
        "bytes" => byte,
        "signed" => byte - 128.0,
        _ => byte / 16.0 - 8.0,
    };
    (0..DIMENSION).map(|_| of(byte())).collect()
}

async fn fill(served: &Served, form: &str) {
    served.create(form, DIMENSION as u32).await;
    for first in (0..ROWS).step_by(BATCH) {
        let vectors = (first..first + BATCH).map(|row| point(&row.to_string(), &values(form, row), "{}")).collect();
        served.points().insert(v1::InsertRequest { collection: form.into(), vectors }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_every_form_come_as_they_are_asked_for() {
    let storage = ObjectStorage::local().unwrap();
    let url = format!("{}/a", storage.url);
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(with_one_segment(archived(&storage, &url, directory.path()))).await.unwrap();
    for (form, _) in FORMS {
        fill(&served, form).await;
    }
    let sealed = || async {
        let is_sealed = metric(&served, "nearfield_searchd_segments").await? >= FORMS.len() as f64
            && metric(&served, "nearfield_searchd_rows_waiting").await? == 0.0;
        is_sealed.then_some(())
    };
    eventually("segments of all rows", PATIENCE, sealed).await.unwrap();
    let server = served.process.address("grpc").unwrap();
    backup(&storage, &url, directory.path(), &["create", "--server", &server]).unwrap();
    served.process.kill().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(starting(&storage, &url, directory.path())).await.unwrap();
    let (before, bytes): (f64, usize) = (missing(&served).await, FORMS.iter().map(|(_, bytes)| bytes).sum());
    let narrow = (ROWS * DIMENSION * bytes) as f64;
    assert!((narrow * 0.5..narrow * 1.2).contains(&before), "{before} bytes are missing of {narrow}");
    for (form, _) in FORMS {
        for row in [0, 77, ROWS / 2, ROWS - 1] {
            let (id, values) = (row.to_string(), values(form, row));
            let query = values.iter().map(|value| value + 0.25).collect();
            let request = v1::SearchRequest { collection: form.into(), query, k: 1, ..Default::default() };
            let hits = served.points().search(request).await.unwrap().into_inner().results;
            assert_eq!(hits[0].vector_id, id, "{form}");
            assert_eq!(served.fetch(form, vec![id]).await[0].values, values, "{form}");
        }
    }
    let after = missing(&served).await;
    assert!(after < before && after > 0.0, "{after} of {before} bytes are missing");
}
