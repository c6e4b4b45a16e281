use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;

const FIXED: gradient::Config = gradient::Config {
    enabled: false,
    floor: 1,
    initial: 1,
    tolerance: 1.2,
    window: Duration::from_millis(100),
    probe_interval: Duration::from_secs(30),
};

fn room(places: usize, queue: QueueConfig) -> Room {
    Room::new(&FIXED, &queue, places)
}

type Waiting = BoxFuture<'static, Result<Place, Full>>;

/// Begins to wait, and has not got a place at once.
fn wait(room: &Room, criticality: Criticality) -> Waiting {
    let room = room.clone();
    let mut waiting: Waiting = Box::pin(async move { room.enter(criticality, None).await });
    assert!((&mut waiting).now_or_never().is_none(), "it got a place at once");
    waiting
}

fn has_place(waiting: &mut Waiting) -> Option<Place> {
    waiting.now_or_never().map(|entered| entered.unwrap_or_else(|full| panic!("{full:?}")))
}

#[tokio::test]
async fn who_matters_more_goes_first_and_among_equals_who_came_first() {
    let room = room(1, QueueConfig { interval: Duration::from_secs(60), ..QueueConfig::default() });
    let place = room.enter(Criticality::Normal, None).await.unwrap();
    let mut first = wait(&room, Criticality::Normal);
    let mut second = wait(&room, Criticality::Normal);
    let mut critical = wait(&room, Criticality::Critical);
    assert_eq!(room.seen(), [1, 1, 3]);
    drop(place);
    let place = has_place(&mut critical).expect("the critical one has the place");
    assert!(has_place(&mut first).is_none());
    drop(place);
    let place = has_place(&mut first).expect("the first one is next");
    assert!(has_place(&mut second).is_none());
    drop(place);
    drop(has_place(&mut second).expect("the second one is last"));
    assert_eq!(room.seen(), [1, 0, 0]);
}

#[tokio::test]
async fn under_overload_the_newest_goes_first() {
    let room = room(1, QueueConfig { interval: Duration::ZERO, ..QueueConfig::default() });
    let place = room.enter(Criticality::Normal, None).await.unwrap();
    let mut first = wait(&room, Criticality::Normal);
    let mut second = wait(&room, Criticality::Normal);
    drop(place);
    assert!(has_place(&mut first).is_none());
    assert!(has_place(&mut second).is_some());
}

#[tokio::test]
async fn a_full_queue_sends_away_who_matters_least_and_waited_longest() {
    let room = room(1, QueueConfig { max_waiting: 2, ..QueueConfig::default() });
    let _place = room.enter(Criticality::Normal, None).await.unwrap();
    let mut normal = wait(&room, Criticality::Normal);
    let mut sheddable = wait(&room, Criticality::Sheddable);
    let mut high = wait(&room, Criticality::High);
    assert!(matches!((&mut sheddable).now_or_never(), Some(Err(Full::Crowded))));
    let another = room.enter(Criticality::Sheddable, None).await;
    assert!(matches!(another, Err(Full::Crowded)), "it matters less than those who wait");
    let _second = wait(&room, Criticality::Normal);
    assert!(matches!((&mut normal).now_or_never(), Some(Err(Full::Crowded))));
    assert!(has_place(&mut high).is_none(), "it still waits");
}

#[tokio::test]
async fn who_is_critical_goes_past_a_limit_that_was_found_by_half_of_it_and_never_past_the_ceiling() {
    let adaptive = gradient::Config { enabled: true, floor: 4, initial: 4, ..FIXED };
    let room = |ceiling| Room::new(&adaptive, &QueueConfig::default(), ceiling);
    let full = async |room: &Room| {
        let enter = (0..4).map(|_| room.enter(Criticality::High, None));
        futures::future::try_join_all(enter).await.unwrap()
    };
    let reserve = room(4096);
    let others = full(&reserve).await;
    let _first = reserve.enter(Criticality::Critical, None).await.unwrap();
    let _second = reserve.enter(Criticality::Critical, None).await.unwrap();
    let mut third = wait(&reserve, Criticality::Critical);
    let mut high = wait(&reserve, Criticality::High);
    assert_eq!(reserve.seen(), [4, 6, 2]);
    drop(others);
    assert!(has_place(&mut third).is_some() && has_place(&mut high).is_some());
    let bounded = room(4);
    let _others = full(&bounded).await;
    drop(wait(&bounded, Criticality::Critical));
}

#[tokio::test]
async fn nobody_waits_longer_than_is_promised_nor_past_the_deadline() {
    let patience = Duration::from_millis(1);
    let room = room(1, QueueConfig { patience, ..QueueConfig::default() });
    let place = room.enter(Criticality::Normal, None).await.unwrap();
    assert!(matches!(room.enter(Criticality::Critical, None).await, Err(Full::Waited)));
    let patient = Room::new(&FIXED, &QueueConfig { patience: Duration::from_secs(600), ..QueueConfig::default() }, 1);
    let _other = patient.enter(Criticality::Normal, None).await.unwrap();
    let soon = Instant::now() + patience;
    assert!(matches!(patient.enter(Criticality::Critical, Some(soon.into())).await, Err(Full::Waited)));
    drop(place);
    assert_eq!(room.seen()[1], 0, "who gave up has no place");
    room.enter(Criticality::Normal, None).await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_given_to_one_who_has_left_goes_to_the_next() {
    let room = room(1, QueueConfig::default());
    let place = room.enter(Criticality::Normal, None).await.unwrap();
    let gone = wait(&room, Criticality::Normal);
    let mut stays = wait(&room, Criticality::Normal);
    drop(gone);
    drop(place);
    let place = has_place(&mut stays).expect("the place went on");
    // One that was sent the place and leaves before it looks.
    let unaware = wait(&room, Criticality::Normal);
    drop(place);
    drop(unaware);
    assert_eq!(room.seen()[1], 0);
    room.enter(Criticality::Normal, None).await.unwrap();
}

#[tokio::test]
async fn many_at_once_never_pass_the_limit_and_leave_nothing_behind() {
    use std::sync::atomic::AtomicUsize;
    let room = room(7, QueueConfig { patience: Duration::from_secs(60), ..QueueConfig::default() });
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls = (0..500).map(|_| {
        let (room, inside, most) = (room.clone(), inside.clone(), most.clone());
        tokio::spawn(async move {
            let mut place = room.enter(Criticality::High, None).await.unwrap();
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
            place.answered();
        })
    });
    futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 7);
    assert_eq!(room.seen(), [7, 0, 0]);
}
