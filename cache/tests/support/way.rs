//! A long way to a server: a proxy on loopback that delays every byte, loses packets as TCP sees it (what comes behind
//! waits until the lost one has been sent again), and can be cut or blocked.

// A test binary and an example are made of this, neither of all of it.
#![allow(clippy::unwrap_used, dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Bytes of a packet.
const PACKET: usize = 1_400;
/// What TCP waits beyond a round trip before it sends again; doubled each time.
const SLACK: Duration = Duration::from_millis(200);
/// Chunks on their way.
const MAX_UNDERWAY: usize = 4_096;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    /// One way.
    pub(crate) delay: Duration,
    /// Packets lost of a thousand.
    pub(crate) loss: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing goes through, and nobody is told.
    Blocked,
    /// Connections are closed.
    Cut,
}

pub(crate) struct Way {
    port: u16,
    nature: Nature,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Way {
    /// To a server at `port` of this machine. `seed` decides what is lost.
    pub(crate) async fn to(port: u16, nature: Nature, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let (state, states) = watch::channel(State::Open);
        let accepting = tokio::spawn(accept(listener, port, nature, Arc::new(Dice(AtomicU64::new(seed))), states));
        Self { port: here, nature, state, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn delay(&self) -> Duration {
        self.nature.delay
    }

    pub(crate) fn open(&self) {
        self.state.send_replace(State::Open);
    }

    pub(crate) fn block(&self) {
        self.state.send_replace(State::Blocked);
    }

    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Numbers that look random and are the same each time (splitmix64).
struct Dice(AtomicU64);

impl Dice {
    fn throw(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

async fn accept(listener: TcpListener, to: u16, nature: Nature, dice: Arc<Dice>, states: watch::Receiver<State>) {
    // Dropped with the way, and all connections with them.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (dice, mut states) = (Arc::clone(&dice), states.clone());
        connections.spawn(async move {
            let cut = async |states: &mut watch::Receiver<State>| {
                let _ = states.wait_for(|state| *state == State::Cut).await;
            };
            let mut watching = states.clone();
            tokio::select! {
                () = cut(&mut watching) => {}
                () = connect(near, to, nature, dice, &mut states) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(near: TcpStream, to: u16, nature: Nature, dice: Arc<Dice>, states: &mut watch::Receiver<State>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (Ok(()), Ok(())) = (near.set_nodelay(true), far.set_nodelay(true)) else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // The handshake's round trip is over before the first byte.
    let opened = Instant::now() + 2 * nature.delay;
    let there = pump(near_in, far_out, nature, opened, Arc::clone(&dice), states.clone());
    let back = pump(far_in, near_out, nature, opened, dice, states.clone());
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    nature: Nature,
    opened: Instant,
    dice: Arc<Dice>,
    mut states: watch::Receiver<State>,
) {
    let (underway, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_UNDERWAY);
    let read = async move {
        let mut last = opened;
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            last = last.max(Instant::now()) + lost(read, nature, &dice);
            let arrival = last + nature.delay;
            if underway.send((arrival, buffer[..read].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((arrival, bytes)) = arriving.recv().await {
            sleep_until(arrival).await;
            if states.wait_for(|state| *state != State::Blocked).await.is_err() || to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}

/// How long what is in these bytes is held up by packets that are lost.
fn lost(bytes: usize, nature: Nature, dice: &Dice) -> Duration {
    let mut held = Duration::ZERO;
    for _ in 0..bytes.div_ceil(PACKET) {
        let mut again = 2 * nature.delay + SLACK;
        while dice.throw() % 1_000 < nature.loss {
            held += again;
            again *= 2;
        }
    }
    held
}
