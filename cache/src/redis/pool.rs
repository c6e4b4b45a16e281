//! Connections to Redis: each carries several commands at once, and another is opened only when all are busy.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};

use super::breaker::Breaker;
use super::{PIPELINE, TIMEOUT};

pub(super) struct Pool {
    client: Client,
    breaker: Arc<Breaker>,
    /// Connections past this many are closed when they have nothing to do.
    idle: usize,
    state: Mutex<State>,
    // Connections live on the runtime that made the pool, whichever asks.
    runtime: tokio::runtime::Handle,
}

struct State {
    slots: Vec<Slot>,
    opening: bool,
}

#[derive(Default)]
struct Slot {
    connection: Option<MultiplexedConnection>,
    busy: usize,
    /// Tells a connection from one that was in this slot before.
    number: u64,
}

/// The use of a connection for one exchange.
pub(super) struct Lease {
    pub(super) connection: MultiplexedConnection,
    pool: Arc<Pool>,
    slot: usize,
    number: u64,
}

impl Pool {
    pub(super) fn new(client: Client, breaker: Arc<Breaker>, size: usize, idle: usize) -> Arc<Self> {
        let slots = (0..size).map(|_| Slot::default()).collect();
        let state = Mutex::new(State { slots, opening: false });
        Arc::new(Self { client, breaker, idle, state, runtime: tokio::runtime::Handle::current() })
    }

    /// A connection with room for one more command. None while there is none; then one is being opened, unless the
    /// pool is full. Never waits.
    pub(super) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state.lock();
        let free = |slot: &Slot| slot.connection.is_some() && slot.busy < PIPELINE;
        if let Some(index) = state.slots.iter().position(free) {
            let slot = &mut state.slots[index];
            slot.busy += 1;
            let connection = slot.connection.clone()?;
            return Some(Lease { connection, pool: Arc::clone(self), slot: index, number: slot.number });
        }
        let empty = state.slots.iter().position(|slot| slot.connection.is_none());
        if let Some(index) = empty
            && !state.opening
        {
            state.opening = true;
            self.runtime.spawn(Arc::clone(self).open(index));
        }
        None
    }

    async fn open(self: Arc<Self>, index: usize) {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(TIMEOUT));
        let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut state = self.state.lock();
        state.opening = false;
        match opened {
            Ok(connection) => {
                let slot = &mut state.slots[index];
                *slot = Slot { connection: Some(connection), busy: 0, number: slot.number + 1 };
                drop(state);
                self.breaker.succeeded();
            }
            Err(error) => {
                drop(state);
                if self.breaker.failed() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "Redis is out of reach");
                }
            }
        }
    }
}

impl Lease {
    /// The connection is of no more use.
    pub(super) fn broken(self) {
        let mut state = self.pool.state.lock();
        let slot = &mut state.slots[self.slot];
        if slot.number == self.number {
            slot.connection = None;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        let slot = &mut state.slots[self.slot];
        if slot.number != self.number {
            return;
        }
        slot.busy = slot.busy.saturating_sub(1);
        if slot.busy == 0 && self.slot >= self.pool.idle {
            slot.connection = None;
        }
    }
}
