//! What an HTTP/2 client may ask for that costs the gateway more than it, by the kind of frame.

use super::allowance::{Allowance, Purse};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;

/// PING, SETTINGS, PRIORITY, GOAWAY and frames of no known type. gRPC measures a way with a ping a round trip.
pub(super) const CONTROLS: Allowance = Allowance { burst: 2_000, per_second: 500 };
/// Requests that the client gives up.
pub(super) const RESETS: Allowance = Allowance { burst: 1_000, per_second: 100 };
/// Requests for which one more may be given up.
const REQUESTS_PER_RESET: u32 = 10;
/// WINDOW_UPDATE.
pub(super) const UPDATES: Allowance = Allowance { burst: 10_000, per_second: 1_000 };
/// Bytes of answers for which one more of them may come: some clients open a window for each piece of a stream of small ones.
const WRITTEN_PER_UPDATE: usize = 32;
/// The same for other control frames.
const WRITTEN_PER_CONTROL: usize = 1024;
/// Frames of data that are not the last of their request.
pub(super) const PIECES: Allowance = Allowance { burst: 10_000, per_second: 2_000 };
/// Bytes of data that are as much work as a frame: larger ones take nothing of their allowance.
pub(super) const BYTES_PER_PIECE: u32 = 64;
/// Bytes of SETTINGS that are as much work as a frame.
const SETTINGS_BYTES_PER_FRAME: u32 = 60;

/// What is left of each allowance of a connection.
pub(super) struct Purses {
    controls: Purse,
    resets: Purse,
    updates: Purse,
    pieces: Purse,
    /// Requests and bytes of answers that have earned nothing yet.
    requests: u32,
    written: usize,
}

impl Purses {
    pub(super) fn new() -> Self {
        Self {
            controls: Purse::new(CONTROLS),
            resets: Purse::new(RESETS),
            updates: Purse::new(UPDATES),
            pieces: Purse::new(PIECES),
            requests: 0,
            written: 0,
        }
    }

    /// Whether the client may send this frame.
    pub(super) fn pays(&mut self, kind: u8, flags: u8, length: u32) -> bool {
        match kind {
            HEADERS => {
                self.controls.earn(1);
                self.requests += 1;
                if self.requests == REQUESTS_PER_RESET {
                    self.resets.earn(1);
                    self.requests = 0;
                }
                true
            }
            DATA if flags & END_STREAM == 0 => {
                self.pieces.earn(length / BYTES_PER_PIECE);
                self.pieces.spend()
            }
            // The latter two end the connection anyhow.
            DATA | PUSH_PROMISE | CONTINUATION => true,
            RST_STREAM => self.resets.spend(),
            WINDOW_UPDATE => self.updates.spend(),
            SETTINGS => (0..=length / SETTINGS_BYTES_PER_FRAME).all(|_| self.controls.spend()),
            _ => self.controls.spend(),
        }
    }

    /// So many bytes of answers went out, for which windows are opened.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        let whole = self.written - self.written % WRITTEN_PER_CONTROL;
        if whole > 0 {
            let earned = |per| u32::try_from(whole / per).unwrap_or(u32::MAX);
            self.controls.earn(earned(WRITTEN_PER_CONTROL));
            self.updates.earn(earned(WRITTEN_PER_UPDATE));
            self.written -= whole;
        }
    }
}

/// Whether a frame has the length that its kind must have (RFC 9113 section 6).
pub(super) fn has_its_length(kind: u8, flags: u8, length: u32) -> bool {
    match kind {
        PRIORITY => length == 5,
        RST_STREAM | WINDOW_UPDATE => length == 4,
        SETTINGS if flags & ACK != 0 => length == 0,
        SETTINGS => length.is_multiple_of(6),
        PING => length == 8,
        GOAWAY => length >= 8,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paid(purses: &mut Purses, kind: u8, flags: u8, length: u32, times: u32) -> u32 {
        (0..times).map(|_| u32::from(purses.pays(kind, flags, length))).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_frame_has_an_allowance() {
        for (kind, length, most) in [
            (PING, 8, CONTROLS.burst),
            (SETTINGS, 0, CONTROLS.burst),
            (SETTINGS, 6_000, CONTROLS.burst / 101),
            (PRIORITY, 5, CONTROLS.burst),
            (GOAWAY, 8, CONTROLS.burst),
            (0x10, 0, CONTROLS.burst),
            (WINDOW_UPDATE, 4, UPDATES.burst),
            (RST_STREAM, 4, RESETS.burst),
            (DATA, 1, PIECES.burst),
        ] {
            let mut purses = Purses::new();
            assert_eq!(paid(&mut purses, kind, 0, length, 2 * most), most, "{kind}");
            assert_eq!(paid(&mut purses, HEADERS, 0, 100, 10), 10, "requests have limits of their own");
        }
        assert_eq!(paid(&mut Purses::new(), DATA, 0, BYTES_PER_PIECE, 2 * PIECES.burst), 2 * PIECES.burst);
        assert_eq!(paid(&mut Purses::new(), DATA, END_STREAM, 1, 2 * PIECES.burst), 2 * PIECES.burst);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_of_all_requests_may_be_given_up() {
        let mut purses = Purses::new();
        assert_eq!(paid(&mut purses, RST_STREAM, 0, 4, RESETS.burst), RESETS.burst);
        assert_eq!(paid(&mut purses, HEADERS, 0, 100, 5 * REQUESTS_PER_RESET), 5 * REQUESTS_PER_RESET);
        assert_eq!(paid(&mut purses, RST_STREAM, 0, 4, 10), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_earn_windows() {
        let mut purses = Purses::new();
        assert_eq!(paid(&mut purses, WINDOW_UPDATE, 0, 4, UPDATES.burst), UPDATES.burst);
        for bytes in [WRITTEN_PER_CONTROL / 2; 4] {
            purses.wrote(bytes);
        }
        let earned = (2 * WRITTEN_PER_CONTROL / WRITTEN_PER_UPDATE) as u32;
        assert_eq!(paid(&mut purses, WINDOW_UPDATE, 0, 4, 2 * earned), earned);
    }
}
