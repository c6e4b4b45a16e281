use super::*;

/// `servers` that each take `took` a call, one call at a time, behind a queue: what a full limit gives.
fn run(gradient: &mut Gradient, servers: f64, took: f64, windows: u32, start: Instant) -> Instant {
    for window in 1..=windows {
        let limit = gradient.limit();
        let median = took * (limit as f64 / servers).max(1.0);
        let median = Duration::from_secs_f64(median);
        for _ in 0..100 {
            gradient.answered(median, gradient.limit());
        }
        gradient.update(seen(median, limit), start + window * WINDOW);
    }
    start + windows * WINDOW
}

/// A window in which `peak` were in flight all the time.
fn seen(median: Duration, peak: usize) -> Window {
    Window { median, samples: 100, peak, beside: peak as f64, lasted: WINDOW }
}

const WINDOW: Duration = Duration::from_millis(100);

fn gradient(floor: usize, initial: usize) -> Gradient {
    Gradient::new(&Config { floor, initial, tolerance: 1.2, ..Config::default() }, 4096)
}

#[test]
fn the_limit_settles_a_little_above_what_is_served_at_once_wherever_it_began() {
    for initial in [8, 64, 1000] {
        let mut gradient = gradient(4, initial);
        run(&mut gradient, 20.0, 0.02, 30, Instant::now());
        assert!((20..=32).contains(&gradient.limit()), "from {initial}: {}", gradient.limit());
    }
}

#[test]
fn it_follows_servers_that_come_and_go() {
    let mut gradient = gradient(4, 64);
    let now = run(&mut gradient, 20.0, 0.02, 30, Instant::now());
    let now = run(&mut gradient, 100.0, 0.02, 100, now);
    assert!((100..=140).contains(&gradient.limit()), "{}", gradient.limit());
    run(&mut gradient, 10.0, 0.02, 30, now);
    assert!((10..=20).contains(&gradient.limit()), "{}", gradient.limit());
}

#[test]
fn calls_that_take_longer_by_nature_are_no_reason_for_fewer() {
    let mut gradient = gradient(4, 64);
    let now = run(&mut gradient, 20.0, 0.02, 30, Instant::now());
    // Ten times as long each: seen with the next measurement of the baseline.
    run(&mut gradient, 20.0, 0.2, 400, now);
    assert!((20..=32).contains(&gradient.limit()), "{}", gradient.limit());
}

#[test]
fn by_default_nothing_is_refused_before_calls_take_twice_as_long_and_never_below_the_floor() {
    let config = Config::default();
    let mut gradient = Gradient::new(&config, 4096);
    let start = Instant::now();
    let floor = config.floor;
    assert_eq!(gradient.limit(), floor);
    gradient.update(seen(Duration::from_millis(10), 50), start + WINDOW);
    for in_flight in floor..4000 {
        let limit = gradient.answered(Duration::from_millis(19), in_flight);
        assert!(limit > in_flight, "{limit}");
    }
    let mut update = |peak, window| gradient.update(seen(Duration::from_millis(500), peak), start + window * WINDOW);
    let lowered = update(4000, 2);
    assert!((floor..4000).contains(&lowered), "{lowered}");
    for window in 3..1000 {
        let limit = update(floor, window);
        assert!(limit >= floor, "{limit}");
    }
}

#[test]
fn it_doubles_with_a_round_of_answers_in_time_and_stops_with_those_that_are_late() {
    let mut gradient = gradient(4, 64);
    gradient.update(seen(Duration::from_millis(40), 10), Instant::now());
    // Who does not need more does not get more.
    assert_eq!(gradient.answered(Duration::from_millis(40), 40), 64);
    (0..64).for_each(|_| _ = gradient.answered(Duration::from_millis(44), gradient.limit()));
    assert_eq!(gradient.limit(), 128);
    (0..10).for_each(|_| _ = gradient.answered(Duration::from_millis(80), gradient.limit()));
    assert_eq!(gradient.limit(), 118);
    (0..64).for_each(|_| _ = gradient.answered(Duration::from_millis(40), gradient.limit()));
    assert_eq!(gradient.limit(), 118, "it has found how many are too many");
}

#[test]
fn what_was_not_used_for_a_while_is_given_up() {
    let mut gradient = gradient(4, 64);
    let now = run(&mut gradient, 1000.0, 0.02, 30, Instant::now());
    assert!(gradient.limit() >= 1000, "{}", gradient.limit());
    let quiet = |peak| Window { samples: 0, lasted: Duration::from_secs(60), ..seen(Duration::ZERO, peak) };
    gradient.update(quiet(200), now);
    assert_eq!(gradient.limit(), 400, "twice what was used");
    gradient.update(quiet(1), now);
    assert_eq!(gradient.limit(), 64);
    run(&mut gradient, 1000.0, 0.02, 10, now);
    assert!(gradient.limit() >= 1000, "it grows as it did at first: {}", gradient.limit());
}

#[test]
fn who_takes_longer_at_the_floor_is_not_kept_there() {
    let mut gradient = gradient(4, 64);
    let now = run(&mut gradient, 20.0, 0.02, 30, Instant::now());
    // All at once five times as long, however few are in flight: found long before the next measurement.
    run(&mut gradient, 20.0, 0.1, 100, now);
    assert!(gradient.limit() >= 16, "{}", gradient.limit());
}

#[test]
fn what_is_not_used_is_not_changed_and_bounds_hold() {
    let mut unused = gradient(4, 64);
    for _ in 0..100 {
        let window = seen(Duration::from_secs(1), 10);
        assert_eq!(unused.update(window, Instant::now()), 64);
    }
    let mut few = gradient(4, 64);
    let window = Window { samples: 9, ..seen(Duration::from_secs(1), 64) };
    assert_eq!(few.update(window, Instant::now()), 64);
    let mut low = gradient(16, 64);
    run(&mut low, 1.0, 0.02, 100, Instant::now());
    // What calls take alone is not seen below the floor: the limit is what that makes of it.
    assert!((16..=23).contains(&low.limit()), "{}", low.limit());
    let mut high = Gradient::new(&Config { floor: 4, initial: 8, ..Config::default() }, 300);
    run(&mut high, 1e6, 0.02, 1000, Instant::now());
    assert_eq!(high.limit(), 300);
}
