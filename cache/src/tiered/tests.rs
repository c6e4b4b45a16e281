use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::StatusCode;

use super::*;
use crate::{Audience, Lifetime, Purge, Tag, Tags};

/// Fills that race with the purges.
const FILLS: u64 = 1_000_000;
const FILLERS: u64 = 4;

fn cache() -> Tiered {
    let clock = Clock::start();
    Tiered::new(clock, Invalidation::new(clock), Arc::default(), Memory::new(1 << 24), Vec::new())
}

fn key() -> Key {
    Key::embed(Audience { tenant: None, scope: "vectors:read" }, "shoes", "1")
}

/// Fills as the layer above does: a stamp, a look at the origin, a store.
fn fill(cache: &Tiered, origin: &AtomicU64, tags: &Tags) {
    let stamp = cache.invalidation.begin();
    let body = Bytes::copy_from_slice(&origin.load(Ordering::SeqCst).to_le_bytes());
    let lifetime = Lifetime { fresh: std::time::Duration::from_secs(300), ..Lifetime::default() };
    let entry = Arc::new(Entry::new(StatusCode::OK, Vec::new(), body, stamp, lifetime, tags.clone()));
    futures::executor::block_on(cache.store(key(), entry));
}

#[test]
fn what_was_purged_does_not_come_back_in_a_million_racing_fills() {
    let (cache, origin, done) = (cache(), AtomicU64::new(0), AtomicBool::new(false));
    let tags = Tags::new(None, "shoes", Some("1"));
    let none = HeaderMap::new();
    let (mut purges, mut seen) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..FILLERS)
            .map(|_| scope.spawn(|| (0..FILLS / FILLERS).for_each(|_| fill(&cache, &origin, &tags))))
            .collect();
        scope.spawn(|| {
            let ends: Vec<_> = fillers.into_iter().map(|filler| filler.join()).collect();
            done.store(true, Ordering::SeqCst);
            ends.into_iter().for_each(|end| end.unwrap());
        });
        while !done.load(Ordering::SeqCst) {
            purges += 1;
            // The origin changes, then says so: whatever is found from now on is of that change or a later one.
            origin.store(purges, Ordering::SeqCst);
            let purge = match purges % 3 {
                0 => Purge::EVERYTHING,
                1 => Purge::tag(Tag::collection(None, "shoes")),
                _ => Purge::tag(Tag::point(None, "shoes", "1")),
            };
            cache.invalidation.purge(purge);
            if let Some(found) = cache.peek(&key(), &none) {
                seen += 1;
                let value = u64::from_le_bytes(found.entry.body[..].try_into().unwrap());
                assert!(value >= purges, "version {value} was given after the purge for {purges}");
            }
        }
    });
    assert!(purges > 100 && seen > 0, "{purges} purges, of which {seen} found something: no race");
}

#[tokio::test]
async fn variants_are_found_by_the_request_that_chooses_them_and_purged_as_one() {
    let (cache, resource) = (cache(), Key::resource("h", "/a", None));
    let request = |foo: &str| HeaderMap::from_iter([(HeaderName::from_static("foo"), foo.parse().unwrap())]);
    let tag = Tag::resource("h", "/a");
    let lifetime = Lifetime { fresh: std::time::Duration::from_secs(300), ..Lifetime::default() };
    let names = vec![HeaderName::from_static("foo")];
    for foo in ["1", "2"] {
        let (stamp, tags) = (cache.invalidation.begin(), Tags::from(vec![tag]));
        let body = Bytes::copy_from_slice(foo.as_bytes());
        let entry = Arc::new(Entry::new(StatusCode::OK, Vec::new(), body, stamp, lifetime, tags));
        assert!(cache.store_variant(resource, names.clone(), &request(foo), entry).await);
    }
    let body = |foo: &str| cache.peek(&resource, &request(foo)).map(|found| found.entry.body.clone());
    assert_eq!((body("1"), body("2"), body("3")), (Some("1".into()), Some("2".into()), None));
    assert_ne!(cache.resolve(resource, &request("1")), resource);
    cache.invalidation.purge(Purge::tag(tag));
    assert_eq!((body("1"), body("2")), (None, None));
}

#[tokio::test]
async fn a_soft_purge_leaves_what_is_stale() {
    let cache = cache();
    let origin = AtomicU64::new(7);
    let tags = Tags::new(None, "shoes", Some("1"));
    fill(&cache, &origin, &tags);
    assert!(matches!(cache.peek(&key(), &HeaderMap::new()).unwrap().age, Age::Fresh { .. }));
    cache.invalidation.purge(Purge::tag(Tag::collection(None, "shoes")).softly(true));
    assert!(matches!(cache.peek(&key(), &HeaderMap::new()).unwrap().age, Age::Stale { .. }));
    fill(&cache, &origin, &tags);
    assert!(matches!(cache.peek(&key(), &HeaderMap::new()).unwrap().age, Age::Fresh { .. }));
}
