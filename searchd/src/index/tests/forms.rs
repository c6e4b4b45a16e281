//! Segments whose vectors are kept in fewer bytes than floats take.

use super::*;
use crate::index::values::Form;

const ROWS: usize = 2_048;
const DIMENSION: usize = 25;

/// Rows that a form holds and no narrower one does.
fn rows(form: Form) -> Vec<Vec<f32>> {
    let narrow = |value: f32| match form {
        Form::Unsigned => (value.abs() * 40.0).min(255.0).round(),
        Form::Signed => (value * 40.0).clamp(-128.0, 127.0).round(),
        Form::Halves => half::f16::from_f32(value).to_f32(),
        Form::Floats => value,
    };
    let all = clustered(ROWS, DIMENSION, 4);
    // 0 and -0 are two values.
    all.into_iter().map(|row| row.into_iter().map(|value| narrow(value) + 0.0).collect()).collect()
}

fn put(index: &Index, rows: &[Vec<f32>]) {
    rows.iter().enumerate().for_each(|(slot, values)| index.put(slot as Slot, values));
}

fn form(index: &Index) -> Form {
    index.segments()[0].vectors.form()
}

#[test]
fn segments_keep_rows_in_the_narrowest_form_and_answer_as_if_they_were_floats() {
    for (kept, version) in [(Form::Unsigned, 3), (Form::Signed, 3), (Form::Halves, 3), (Form::Floats, 2)] {
        let directory = tempfile::tempdir().unwrap();
        let index = index(DIMENSION as u32, "euclidean", "pq");
        let rows = rows(kept);
        put(&index, &rows);
        let queries = clustered(20, DIMENSION, 5);
        let exact = |index: &Index| {
            let ask = Ask { exact: true, ..ASK };
            queries.iter().map(|query| found(index, query, ask)).collect::<Vec<_>>()
        };
        let before = exact(&index);
        seal(&index, directory.path());
        assert_eq!(form(&index), kept);
        assert_eq!(exact(&index), before, "{kept:?}");
        for (slot, values) in rows.iter().enumerate() {
            assert_eq!(index.values(slot as Slot).unwrap().unwrap(), *values);
        }
        // Files of floats are such as searchds of before wrote and read.
        let sealed = index.segments()[0].sealed;
        let file = segment::vectors_file(directory.path(), sealed.part);
        let whole = std::fs::read(&file).unwrap();
        assert_eq!(whole[7], version, "{kept:?}");
        let open = || Segment::open(directory.path(), sealed, &index.settings, &builder());
        assert!(open().is_ok());
        for at in (0..64).chain((64..whole.len()).step_by(whole.len() / 50)) {
            change(&file, |bytes| bytes[at] ^= 16);
            assert!(open().is_err(), "byte {at} of {kept:?}");
            change(&file, |bytes| bytes.clone_from(&whole));
        }
        // A row of another form makes all of them wider when they become one segment.
        index.put(0, &[0.1; DIMENSION]);
        (1..800).for_each(|slot| index.remove(slot));
        while let Some(sources) = index.sources_at_rest(Duration::ZERO).or_else(|| index.head_sources_in_need()) {
            index.seal(&sources, directory.path(), &builder()).unwrap();
        }
        let wide = index.segments().iter().map(|segment| segment.vectors.form()).collect::<Vec<_>>();
        assert!(wide.contains(&Form::Floats), "{wide:?}");
        assert_eq!(index.values(0).unwrap().unwrap(), [0.1; DIMENSION]);
        assert_eq!(index.values(900).unwrap().unwrap(), rows[900]);
    }
}
