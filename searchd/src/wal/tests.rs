use super::*;

fn entry(sequence: u64) -> Entry {
    Entry { origin: 1, sequence, collection: "c".repeat(sequence as usize % 50), ..Default::default() }
}

fn open(directory: &Path, from: u64) -> Result<(Wal, Vec<u64>), Error> {
    let mut seen = Vec::new();
    let wal = Wal::open(directory, 1_000, from, |replay| {
        assert_eq!(replay.entry, entry(replay.number));
        seen.push(replay.number);
        Ok::<_, Error>(())
    })?;
    Ok((wal, seen))
}

fn written(directory: &Path, count: u64) -> Wal {
    let (mut wal, _) = open(directory, 1).unwrap();
    for number in 1..=count {
        wal.append([entry(number)].iter()).unwrap();
    }
    wal
}

fn last_file(directory: &Path) -> PathBuf {
    reader::path(directory, *reader::list(directory).unwrap().last().unwrap())
}

#[test]
fn what_was_appended_is_replayed_across_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut wal = written(directory.path(), 100);
    assert!(wal.files.read().len() > 3);
    wal.append((101..=105).map(entry).collect::<Vec<_>>().iter()).unwrap();
    drop(wal);
    let (wal, seen) = open(directory.path(), 1).unwrap();
    assert_eq!(seen, (1..=105).collect::<Vec<_>>());
    assert_eq!(wal.next(), 106);
    let (_, seen) = open(directory.path(), 60).unwrap();
    assert_eq!(seen, (60..=105).collect::<Vec<_>>());
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn_and_writing_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    drop(written(directory.path(), 30));
    let file = last_file(directory.path());
    let whole = std::fs::read(&file).unwrap();
    let last = record_offsets(&whole).pop().unwrap();
    for cut in last..whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let (mut wal, seen) = open(directory.path(), 1).unwrap();
        assert_eq!(seen.len(), 29);
        wal.append([entry(30)].iter()).unwrap();
        assert_eq!(open(directory.path(), 1).unwrap().1.len(), 30);
    }
}

#[test]
fn damage_before_the_tail_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(written(directory.path(), 30));
    for file in reader::list(directory.path()).unwrap().into_iter().map(|first| reader::path(directory.path(), first)) {
        let whole = std::fs::read(&file).unwrap();
        let last = record_offsets(&whole).pop().unwrap();
        let end = if file == last_file(directory.path()) { last } else { whole.len() };
        for at in (0..end).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&file, &damaged).unwrap();
            assert!(matches!(open(directory.path(), 1), Err(Error::Damaged { .. })), "{} byte {at}", file.display());
        }
        std::fs::write(&file, &whole).unwrap();
    }
    assert_eq!(open(directory.path(), 1).unwrap().1.len(), 30);
}

#[test]
fn forgotten_files_are_gone_and_a_gap_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut wal = written(directory.path(), 100);
    wal.forget_before(50, u64::MAX).unwrap();
    assert!(wal.reader().position(1).is_some());
    wal.forget_before(50, 0).unwrap();
    assert!(wal.reader().position(1).is_none());
    let (reader, mut seen) = (wal.reader(), Vec::new());
    let mut position = reader.position(50).unwrap();
    while position.next() <= reader.durable() {
        let there = reader.read(&mut position, |replay| {
            seen.push(replay.number);
            replay.number % 7 != 0
        });
        assert!(there.unwrap());
    }
    assert_eq!(seen.last(), Some(&100));
    assert!(seen.is_sorted() && seen.contains(&50));
    drop(wal);
    assert!(matches!(open(directory.path(), 1), Err(Error::Gap { .. })));
    assert_eq!(open(directory.path(), 50).unwrap().1.len(), 51);
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_not_taken_for_a_torn_one() {
    let directory = tempfile::tempdir().unwrap();
    drop(written(directory.path(), 30));
    let file = last_file(directory.path());
    let whole = std::fs::read(&file).unwrap();
    let last = record_offsets(&whole).pop().unwrap();
    for bit in last * 8..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &damaged).unwrap();
        assert!(matches!(open(directory.path(), 1), Err(Error::Damaged { number: 30, .. })), "bit {bit}");
    }
}

/// Everything that can be read, as a peer that tails the log reads it.
fn tailed(wal: &Wal) -> Vec<u64> {
    let (reader, mut seen) = (wal.reader(), Vec::new());
    let mut position = reader.position(reader.oldest()).unwrap();
    while position.next() <= reader.durable() {
        let there = reader.read(&mut position, |replay| {
            assert_eq!(replay.entry, entry(replay.number));
            seen.push(replay.number);
            true
        });
        assert!(there.unwrap());
    }
    seen
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut wal = written(directory.path(), 3);
    // /dev/full answers every write as a full disk does. As a device it cannot be cut back either.
    wal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(matches!(wal.append([entry(4)].iter()), Err(AppendError::DiskFull(_))));
    wal.append([entry(4)].iter()).unwrap();
    assert_eq!(tailed(&wal), [1, 2, 3, 4]);
    assert_eq!(open(directory.path(), 1).unwrap().1, [1, 2, 3, 4]);
}

#[test]
fn after_a_failed_sync_nothing_is_asked_of_that_file_again() {
    let directory = tempfile::tempdir().unwrap();
    for acknowledged in [0, 3] {
        let home = directory.path().join(acknowledged.to_string());
        let mut wal = written(&home, acknowledged);
        // Writes to /dev/null succeed, syncing it does not.
        let file = std::mem::replace(&mut wal.file, OpenOptions::new().write(true).open("/dev/null").unwrap());
        assert!(matches!(wal.append([entry(70)].iter()), Err(AppendError::Io(_))));
        // As if what was written had reached the disk after all, and the cut had not.
        let mut refused = Vec::new();
        record::encode(acknowledged + 1, acknowledged, &entry(70), &mut refused);
        file.write_all_at(&refused, file.metadata().unwrap().len()).unwrap();
        let numbers: Vec<u64> = (1..=acknowledged + 2).collect();
        for number in &numbers[acknowledged as usize..] {
            wal.append([entry(*number)].iter()).unwrap();
        }
        assert_eq!(tailed(&wal), numbers);
        assert_eq!(open(&home, 1).unwrap().1, numbers);
    }
}

fn record_offsets(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 0;
    while let Some(record) = record::decode(&bytes[at..]) {
        offsets.push(at);
        at += record.bytes;
    }
    offsets
}
