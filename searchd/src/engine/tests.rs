use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// An index that only remembers.
#[derive(Default)]
struct Model {
    values: HashMap<(u64, Slot), Bytes>,
    metadata: HashMap<(u64, Slot), Bytes>,
}

impl Vectors for Model {
    fn values(&self, incarnation: u64, slot: Slot) -> Option<Bytes> {
        self.values.get(&(incarnation, slot)).cloned()
    }
}

impl Model {
    fn follow(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Created { .. } => {}
                Effect::Dropped { incarnation } => {
                    self.values.retain(|(of, _), _| *of != incarnation);
                    self.metadata.retain(|(of, _), _| *of != incarnation);
                }
                Effect::Changed { incarnation, changes } => {
                    for change in changes {
                        match change {
                            Change::Vector { slot, values } => drop(self.values.insert((incarnation, slot), values)),
                            Change::Removed { slot } => drop(self.values.remove(&(incarnation, slot))),
                            Change::Metadata { slot, before, after } => {
                                let known = self.metadata.remove(&(incarnation, slot));
                                assert_eq!(known, before, "a change begins where the last one ended");
                                after.map(|after| self.metadata.insert((incarnation, slot), after));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a client can see: collections, and their points with version, vector and metadata.
type Visible = BTreeMap<Address, BTreeMap<String, (u64, Bytes, Bytes)>>;

fn applied<'a>(entries: impl IntoIterator<Item = &'a log::Entry>) -> Visible {
    let (mut state, mut model) = (State::default(), Model::default());
    for entry in entries {
        let effects = state.apply(entry, &model).unwrap();
        model.follow(effects);
    }
    let mut visible = Visible::new();
    for (address, _) in state.holders() {
        let Some(collection) = state.collection(address) else { continue };
        let points = (0..collection.slots()).filter_map(|slot| {
            let (id, record) = collection.slot(slot)?;
            let values = model.values(collection.incarnation, slot);
            assert_eq!(values.is_some(), record.is_live(), "{id}: the index has what lives, and nothing else");
            let described = model.metadata.get(&(collection.incarnation, slot)).cloned();
            assert_eq!(described, record.is_live().then(|| record.metadata_bytes()), "{id}: and its metadata");
            Some((id.to_owned(), (record.version, values?, record.metadata_bytes())))
        });
        let points: BTreeMap<_, _> = points.collect();
        assert_eq!(collection.count(), points.len() as u64);
        visible.insert(address.clone(), points);
    }
    visible
}

fn settings() -> Option<nearfield_proto::v1::CollectionSettings> {
    Some(nearfield_proto::v1::CollectionSettings { dimension: 1, ..Default::default() })
}

fn changes() -> impl Strategy<Value = entry::Change> {
    let id = || prop::sample::select(vec!["a", "b"]);
    let values = || any::<u8>().prop_map(|byte| Bytes::copy_from_slice(&f32::from(byte).to_le_bytes()));
    let key = || prop::sample::select(vec!["x", "y"]);
    let json = || (0..4u8).prop_map(|n| if n == 0 { Bytes::new() } else { n.to_string().into() });
    let put = (id(), values(), prop::option::of((key(), 1..4u8))).prop_map(|(id, values, pair)| {
        let metadata = pair.map_or_else(Bytes::new, |(key, value)| format!("{{\"{key}\":{value}}}").into());
        entry::Change::Put(log::Put { points: vec![log::PutPoint { id: id.into(), values, metadata, version: 0 }] })
    });
    let patch = (id(), prop::option::of(values()), prop::collection::hash_map(key(), json(), 0..3));
    let patch = patch.prop_map(|(id, values, metadata)| {
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        entry::Change::Patch(log::Patch { id: id.into(), values: values.unwrap_or_default(), metadata, version: 0 })
    });
    let delete = id().prop_map(|id| entry::Change::Delete(log::Delete { ids: vec![id.into()] }));
    let create = Just(entry::Change::CreateCollection(log::CreateCollection { settings: settings() }));
    let drop = Just(entry::Change::DeleteCollection(log::DeleteCollection {}));
    prop_oneof![6 => put, 6 => patch, 3 => delete, 2 => create, 1 => drop]
}

/// Versions grow with stamps, as they do where a writer has seen what it writes over.
fn with_version(mut change: entry::Change, version: u64) -> entry::Change {
    match &mut change {
        entry::Change::Put(put) => put.points.iter_mut().for_each(|point| point.version = version),
        entry::Change::Patch(patch) => patch.version = version,
        _ => {}
    }
    change
}

/// Entries of two writers with stamps that all differ, in the order of their stamps.
fn histories() -> impl Strategy<Value = Vec<log::Entry>> {
    prop::collection::vec((changes(), 1..3u64), 1..12).prop_map(|all| {
        let mut sequences = HashMap::new();
        let numbered = all.into_iter().enumerate().map(|(i, (change, origin))| {
            let sequence = sequences.entry(origin).or_insert(0);
            *sequence += 1;
            log::Entry {
                origin,
                sequence: *sequence,
                stamp: Some(log::Stamp { physical: i as u64, logical: 0, region: "r".into(), writer: origin }),
                tenant: String::new(),
                collection: "c".into(),
                change: Some(with_version(change, i as u64 + 1)),
            }
        });
        numbered.collect()
    })
}

/// The same entries in another order, some of them twice.
fn shuffled() -> impl Strategy<Value = (Vec<log::Entry>, Vec<log::Entry>)> {
    histories().prop_flat_map(|history| {
        let twice: Vec<_> = history.iter().chain(history.iter().step_by(2)).cloned().collect();
        (Just(history), Just(twice).prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_order_and_repetition_leads_to_the_same_state((ordered, disordered) in shuffled()) {
        prop_assert_eq!(applied(&ordered), applied(&disordered));
    }
}

fn entry(physical: u64, change: entry::Change) -> log::Entry {
    let stamp = Some(log::Stamp { physical, ..Default::default() });
    let (origin, collection) = (1, "c".into());
    log::Entry { origin, sequence: physical, stamp, collection, change: Some(change), ..Default::default() }
}

fn create() -> entry::Change {
    entry::Change::CreateCollection(log::CreateCollection { settings: settings() })
}

fn put(id: &str, metadata: &'static str) -> entry::Change {
    let (values, metadata) = (Bytes::from_static(&[0; 4]), metadata.into());
    entry::Change::Put(log::Put { points: vec![log::PutPoint { id: id.into(), values, metadata, version: 1 }] })
}

#[test]
fn a_deleted_point_stays_deleted_when_its_put_is_replayed() {
    let delete = entry(3, entry::Change::Delete(log::Delete { ids: vec!["a".into()] }));
    let history = [entry(1, create()), entry(2, put("a", "")), delete, entry(2, put("a", ""))];
    assert!(applied(&history)[&Address::new("", "c")].is_empty());
}

#[test]
fn a_delete_outlives_an_older_deletion_of_its_collection() {
    let drop = entry(2, entry::Change::DeleteCollection(log::DeleteCollection {}));
    let delete = entry(5, entry::Change::Delete(log::Delete { ids: vec!["a".into()] }));
    let history = [entry(1, create()), delete, drop, entry(3, create()), entry(4, put("a", ""))];
    assert!(applied(&history)[&Address::new("", "c")].is_empty());
}

#[test]
fn a_put_clears_keys_and_a_late_patch_keeps_its_own() {
    let patch = |physical, key: &str, value: &'static str| {
        let metadata = [(key.to_owned(), Bytes::from_static(value.as_bytes()))].into();
        entry(physical, entry::Change::Patch(log::Patch { id: "a".into(), metadata, version: 2, ..Default::default() }))
    };
    let history = [
        entry(1, create()),
        entry(2, put("a", r#"{"x":1,"y":2}"#)),
        patch(3, "x", "9"),
        patch(6, "z", "7"),
        entry(5, put("a", r#"{"y":3}"#)),
    ];
    let visible = applied(&history);
    let (version, _, metadata) = &visible[&Address::new("", "c")]["a"];
    assert_eq!((*version, &metadata[..]), (2, &br#"{"y":3,"z":7}"#[..]));
}

#[test]
fn tenants_do_not_meet() {
    let of_tenant = |mut entry: log::Entry| {
        entry.tenant = "t".into();
        entry
    };
    let history = [entry(1, create()), of_tenant(entry(2, create())), of_tenant(entry(3, put("a", "")))];
    let visible = applied(&history);
    assert_eq!(visible[&Address::new("", "c")].len(), 0);
    assert_eq!(visible[&Address::new("t", "c")].len(), 1);
}
