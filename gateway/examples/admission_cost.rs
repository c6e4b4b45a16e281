//! What it costs to decide about a call: CPU ns of a place that is free, of a refusal, and of a place that goes on to the
//! next in a long queue.
//!
//! ```sh
//! cargo run --release -p nearfield-gateway --example admission_cost
//! ```

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nearfield_gateway::layers::shed::criticality::Criticality;
use nearfield_gateway::layers::shed::gradient;
use nearfield_gateway::layers::shed::room::{Full, Place, QueueConfig, Room};

const ROUNDS: u32 = 1_000_000;
/// The least of so many: what else the machine does is in all but the quickest.
const BATCHES: u32 = 10;
const WAITING: usize = 1024;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let patient = QueueConfig { patience: Duration::from_secs(3600), max_waiting: WAITING, ..QueueConfig::default() };
    println!("| decision | CPU ns |\n|---|---|");

    let open = Room::new(&gradient::Config::default(), &patient, 4096);
    report("a place, taken and left", || drop(black_box(enter(&open, Criticality::Normal))));

    let one = gradient::Config { enabled: false, ..gradient::Config::default() };
    let full = Room::new(&one, &QueueConfig { max_waiting: 0, ..patient.clone() }, 1);
    let _place = enter(&full, Criticality::Normal);
    report("a refusal", || drop(black_box(enter(&full, Criticality::Normal))));

    // Overload from the first moment, and little patience left: the newest goes first.
    let overload = QueueConfig { interval: Duration::ZERO, target: patient.patience / 4, ..patient };
    let queued = Room::new(&one, &overload, 1);
    let mut place = enter(&queued, Criticality::Normal).and_then(Result::ok);
    let mut waiting: Vec<_> = (0..WAITING - 1).map(|_| Box::pin(wait(&queued))).collect();
    let mut cx = Context::from_waker(Waker::noop());
    for one in &mut waiting {
        assert!(one.as_mut().poll(&mut cx).is_pending());
    }
    report("one more in the queue, and the place goes on", || {
        let mut last = Box::pin(wait(&queued));
        assert!(last.as_mut().poll(&mut cx).is_pending());
        drop(place.take());
        match last.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(next)) => place = Some(next),
            _ => panic!("the place went to another"),
        }
    });
}

async fn wait(room: &Room) -> Result<Place, Full> {
    room.enter(Criticality::Normal, None).await
}

/// Without waiting.
fn enter(room: &Room, criticality: Criticality) -> Option<Result<Place, Full>> {
    let entering = pin!(room.enter(criticality, None));
    match entering.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(entered) => Some(entered),
        Poll::Pending => None,
    }
}

fn report(what: &str, mut decide: impl FnMut()) {
    let batch = |_| {
        let before = cpu_time();
        (0..ROUNDS / BATCHES).for_each(|_| decide());
        (cpu_time() - before).as_nanos() as f64 / f64::from(ROUNDS / BATCHES)
    };
    let least = (0..BATCHES).map(batch).fold(f64::INFINITY, f64::min);
    println!("| {what} | {least:.0} |");
}

/// Of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the kernel to fill in.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
