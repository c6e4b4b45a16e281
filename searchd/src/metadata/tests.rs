use std::collections::BTreeMap;

use bytes::Bytes;
use nearfield_proto::log::v1 as log;
use nearfield_proto::v1;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::engine::{Address, Change, Effect, State, Vectors};
use crate::filter::{self, Filter};
use crate::search::admission;

/// Strings around the length at which they are cut, which share their beginnings.
fn long() -> impl Strategy<Value = Value> {
    let letters = prop::sample::select(vec!["", "a", "b", "é", "ab", "😀"]);
    (123usize..131, letters.clone(), letters).prop_map(|(n, one, two)| format!("{}{one}{two}", "x".repeat(n)).into())
}

fn scalars(with_long: bool) -> BoxedStrategy<Value> {
    let short = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..4).prop_map(Value::from),
        (-6i64..7).prop_map(|n| Value::from(n as f64 / 2.0)),
        prop::sample::select(vec![json!(u64::MAX), json!(i64::MIN), json!(1e300), json!(-1e300), json!(-0.0)]),
        prop::sample::select(vec![json!(9_007_199_254_740_992_u64), json!(9_007_199_254_740_993_u64)]),
        prop::sample::select(vec![json!(9_007_199_254_740_992.0), json!(9_007_199_254_740_994.0)]),
        "[ab]{0,2}".prop_map(Value::from),
    ];
    if with_long { prop_oneof![3 => short, 1 => long()].boxed() } else { short.boxed() }
}

fn values(with_long: bool) -> impl Strategy<Value = Value> {
    let leaf = scalars(with_long);
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab]|a\\.b|", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

fn objects(with_long: bool) -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[abc]", values(with_long), 0..4).prop_map(|map| json!(map))
}

fn filters(with_long: bool) -> impl Strategy<Value = Filter> {
    let path = "[abc](\\.[ab]?){0,2}";
    let compared = prop::sample::select(vec!["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]);
    let leaf = prop_oneof![
        4 => (path, compared, scalars(with_long)).prop_map(|(path, operator, value)| json!({path: {operator: value}})),
        1 => (path, any::<bool>()).prop_map(|(path, exists)| json!({path: {"$exists": exists}})),
        1 => (path, any::<bool>(), prop::collection::vec(scalars(with_long), 0..4))
            .prop_map(|(path, is_in, all)| json!({path: {if is_in { "$in" } else { "$nin" }: all}})),
    ];
    let tree = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| json!({"$and": all})),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|any| json!({"$or": any})),
            inner.prop_map(|filter| json!({"$not": filter})),
        ]
    });
    tree.prop_filter_map("some values have no order", |filter| filter::parse(filter.to_string().as_bytes(), "").ok())
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Value),
    Patch(u8, String, Option<Value>),
    Delete(u8),
    /// The index reads on.
    Read(u8),
}

fn steps(with_long: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..12, objects(with_long)).prop_map(|(id, metadata)| Step::Put(id, metadata)),
        2 => (0u8..12, "[abc]", prop::option::of(values(with_long)))
            .prop_map(|(id, key, value)| Step::Patch(id, key, value)),
        1 => (0u8..12).prop_map(Step::Delete),
        1 => (0u8..4).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..40)
}

struct NoVectors;

impl Vectors for NoVectors {
    fn values(&self, _: u64, _: Slot) -> Option<Bytes> {
        None
    }
}

/// A collection of the engine's own, with the index that follows it.
struct World {
    state: State,
    index: Index,
    sequence: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut world = Self { state: State::default(), index: Index { limits, ..Index::default() }, sequence: 0 };
        let settings = v1::CollectionSettings { dimension: 1, ..Default::default() };
        world.apply(log::entry::Change::CreateCollection(log::CreateCollection { settings: Some(settings) }));
        world
    }

    fn apply(&mut self, change: log::entry::Change) {
        self.sequence += 1;
        let stamp = log::Stamp { physical: self.sequence, logical: 0, region: "r".into(), writer: 1 };
        let entry = log::Entry {
            origin: 1,
            sequence: self.sequence,
            stamp: Some(stamp),
            tenant: String::new(),
            collection: "c".into(),
            change: Some(change),
        };
        for effect in self.state.apply(&entry, &NoVectors).unwrap() {
            let Effect::Changed { changes, .. } = effect else { continue };
            for change in changes {
                if let Change::Metadata { slot, before, after } = change {
                    self.index.change(slot, before.as_deref(), after.as_deref());
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let values = Bytes::from_static(&[0, 0, 128, 63]);
        match step {
            Step::Put(id, metadata) => {
                let metadata = metadata.to_string().into();
                let points = vec![log::PutPoint { id: id.to_string(), values, metadata, version: 1 }];
                self.apply(log::entry::Change::Put(log::Put { points }));
            }
            Step::Patch(id, key, value) => {
                let value = value.as_ref().map(Value::to_string).unwrap_or_default();
                let metadata = [(key.clone(), value.into())].into_iter().collect();
                let patch = log::Patch { id: id.to_string(), values: Bytes::new(), metadata, version: 1 };
                self.apply(log::entry::Change::Patch(patch));
            }
            Step::Delete(id) => self.apply(log::entry::Change::Delete(log::Delete { ids: vec![id.to_string()] })),
            Step::Read(count) => {
                let collection = self.state.collection(&Address::new("", "c")).unwrap();
                self.index.read(collection, Slot::from(*count));
            }
        }
    }

    fn collection(&self) -> &Collection {
        self.state.collection(&Address::new("", "c")).unwrap()
    }

    /// The slots that match, by the records themselves.
    fn truth(&self, filter: &Filter) -> Vec<Slot> {
        let collection = self.collection();
        (0..collection.slots()).filter(|slot| admission::matches(collection, *slot, filter)).collect()
    }

    fn check(&self, filter: &Filter) {
        let truth = self.truth(filter);
        let found = self.index.evaluate(filter, self.collection().slots());
        assert!(found.sure.is_disjoint(&found.doubt));
        assert!(found.sure.iter().all(|slot| truth.contains(&slot)), "sure {:?}, true {truth:?}", found.sure);
        assert!(truth.iter().all(|slot| found.sure.contains(*slot) || found.doubt.contains(*slot)), "{truth:?}");
        assert_eq!(admission::matching(self.collection(), &self.index, filter), truth);
    }
}

proptest! {
    #[test]
    fn an_index_finds_what_the_records_say(
        steps in steps(true),
        filters in prop::collection::vec(filters(true), 8),
    ) {
        let mut world = World::new(Limits::default());
        for step in &steps {
            world.step(step);
            world.check(&filters[0]);
        }
        filters.iter().for_each(|filter| world.check(filter));
    }

    #[test]
    fn limits_leave_doubt_and_never_a_wrong_answer(
        steps in steps(true),
        filters in prop::collection::vec(filters(true), 8),
        (paths, path_bytes, values) in (0usize..6, 2usize..8, 1usize..12),
    ) {
        let mut world = World::new(Limits { paths, path_bytes, values });
        steps.iter().for_each(|step| world.step(step));
        filters.iter().for_each(|filter| world.check(filter));
    }

    #[test]
    fn a_complete_index_of_short_values_has_no_doubt(
        steps in steps(false),
        filters in prop::collection::vec(filters(false), 8),
    ) {
        let mut world = World::new(Limits::default());
        world.step(&Step::Read(1));
        prop_assert!(world.index.is_complete());
        steps.iter().for_each(|step| world.step(step));
        for filter in &filters {
            let found = world.index.evaluate(filter, world.collection().slots());
            prop_assert!(found.doubt.is_empty());
            prop_assert_eq!(found.sure.iter().collect::<Vec<_>>(), world.truth(filter));
        }
    }

    #[test]
    fn what_is_deleted_leaves_nothing_behind(steps in steps(true)) {
        let mut world = World::new(Limits::default());
        world.step(&Step::Read(1));
        let empty = world.index.bytes();
        steps.iter().for_each(|step| world.step(step));
        (0..12).for_each(|id| world.step(&Step::Delete(id)));
        prop_assert!(world.index.columns.is_empty());
        prop_assert_eq!(world.index.bytes(), empty);
    }
}

fn filter(json: &Value) -> Filter {
    filter::parse(json.to_string().as_bytes(), "").unwrap()
}

#[test]
fn a_tenants_filter_looks_at_its_own_records_only() {
    let mut index = Index { read: Read::All, ..Index::default() };
    for slot in 0..30_000 {
        let metadata = json!({"tenant": format!("t{}", slot % 3_000), "at": slot});
        index.change(slot, None, Some(metadata.to_string().as_bytes()));
    }
    let tenant = index.evaluate(&filter(&json!({"tenant": "t42"})), 30_000);
    assert_eq!((tenant.sure.len(), tenant.doubt.len()), (10, 0));
    // Going through 30,000 times is worth more than ten records: these are in doubt, and nobody else's.
    for range in [json!({"$gt": 60}), json!({"$not": {"$lt": 29_000}})] {
        let both = index.evaluate(&filter(&json!({"tenant": "t42", "at": range})), 30_000);
        assert!(both.possible() <= 10 && both.sure.is_empty(), "{both:?}");
    }
    let narrow = index.evaluate(&filter(&json!({"tenant": "t42", "at": {"$lt": 60}})), 30_000);
    assert_eq!((narrow.sure.iter().collect::<Vec<_>>(), narrow.doubt.len()), (vec![42], 0));
    let alone = index.evaluate(&filter(&json!({"at": {"$gte": 20_000}})), 30_000);
    assert_eq!((alone.sure.len(), alone.doubt.len()), (10_000, 0));
}

#[test]
fn each_value_is_known_by_what_a_record_holds() {
    let mut index = Index { read: Read::All, ..Index::default() };
    let records: BTreeMap<Slot, Value> = [
        (0, json!({"a": [{"b": 1}, {"c": 2}]})),
        (1, json!({"a": {"b": 1, "c": 3}})),
        (2, json!({"a": [[{"b": 1}]], "a.b": 1})),
    ]
    .into();
    for (slot, record) in &records {
        index.change(*slot, None, Some(record.to_string().as_bytes()));
    }
    let found = |json: Value| index.evaluate(&filter(&json), 3).sure.iter().collect::<Vec<_>>();
    // Each condition may be met by another element.
    assert_eq!(found(json!({"a.b": 1, "a.c": 2})), [0]);
    assert_eq!(found(json!({"a.b": 1})), [0, 1]);
    assert_eq!(found(json!({"a": {"$exists": true}})), [0, 1, 2]);
    assert_eq!(found(json!({"a.c": {"$ne": 3}})), [0, 2]);
}
