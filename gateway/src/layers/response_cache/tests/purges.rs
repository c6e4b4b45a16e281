//! What writes and purges make of answers, also of those that are on their way.

use nearfield_cache::{Purge, Tag};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_write_ends_what_was_known_of_its_collection_and_settles() {
    let f = Fixture::counting();
    f.get(SEARCH).await;
    f.get(POINT).await;
    f.get("/api/v1/embed/a?collection=hats").await;
    f.invalidation().collection_changed(None, "shoes");
    assert_eq!(f.get(SEARCH).await.body, "{\"n\":4}");
    let point = f.get(POINT).await;
    assert_eq!((point.body.as_str(), point.header("cache-control")), ("{\"n\":5}", "private, max-age=1"));
    assert!(f.get("/api/v1/embed/a?collection=hats").await.cache().contains("hit"));
    assert!(f.get(POINT).await.cache().contains("hit"));
    pass(2).await;
    f.get(POINT).await;
    assert_eq!(f.asked(), 6);
    pass(5).await;
    assert_eq!(f.get(POINT).await.header("cache-control"), "private, max-age=300");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_write_overtakes_is_given_and_not_kept() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let f = Arc::new(Fixture::around(move |number, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.notified().await;
            Ok(json(format!("{number}")))
        }
    }));
    let reader = tokio::spawn({
        let f = Arc::clone(&f);
        async move { f.get(SEARCH).await }
    });
    while f.asked() < 1 {
        tokio::task::yield_now().await;
    }
    f.invalidation().collection_changed(None, "shoes");
    // Who asks after the write does not wait for the answer from before it.
    let later = tokio::spawn({
        let f = Arc::clone(&f);
        async move { f.get(SEARCH).await }
    });
    while f.asked() < 2 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    let early = reader.await.unwrap();
    assert_eq!((early.body.as_str(), early.cache()), ("1", "nearfield; fwd=uri-miss; fwd-status=200"));
    gate.notify_one();
    assert_eq!(later.await.unwrap().body, "2");
    assert_eq!(f.get(SEARCH).await.body, "2");
}

#[tokio::test(start_paused = true)]
async fn what_a_write_ended_does_not_stand_in() {
    let f = Fixture::new(|number, _| if number == 1 { Ok(json("{}")) } else { Err(Error::NoRegion) });
    f.get(SEARCH).await;
    f.invalidation().collection_changed(None, "shoes");
    assert_eq!(f.get(SEARCH).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn what_was_purged_softly_is_asked_for_anew_and_stands_in_for_a_failure() {
    let f = Fixture::new(|number, _| if number == 2 { Err(Error::NoRegion) } else { Ok(json(format!("{number}"))) });
    f.get(SEARCH).await;
    f.invalidation().purge(Purge::tag(Tag::collection(None, "shoes")).softly(true));
    let old = f.get(SEARCH).await;
    assert_eq!(
        (old.body.as_str(), old.cache()),
        ("1", "nearfield; fwd=stale; fwd-status=503; ttl=-0; detail=stale-if-error")
    );
    assert_eq!(f.get(SEARCH).await.body, "3");
    assert!(f.get(SEARCH).await.cache().contains("hit"));
}
