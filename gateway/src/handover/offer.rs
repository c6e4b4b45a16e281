//! An offer as it goes from one process to the other: a description in JSON, and the sockets themselves beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::Error;
use crate::listener::{Mark, QuicSecrets};

/// Sockets of one hand-over; the kernel passes no more than 253 at once.
const MAX_FDS: usize = 253;
/// Bytes of an offer's description.
const MAX_OFFER: usize = 64 << 10;
pub(super) const VERSION: u32 = 1;

/// One address that is served.
pub(crate) struct Listening {
    /// As the settings have it; its port may be 0.
    pub(crate) asked: SocketAddr,
    pub(crate) addr: SocketAddr,
    pub(crate) tcp: OwnedFd,
    pub(crate) udp: Option<Udp>,
}

/// A UDP socket, the relays of those processes that still drain, and their marks.
pub(crate) struct Udp {
    pub(crate) socket: OwnedFd,
    pub(crate) elders: Vec<(Mark, OwnedFd)>,
}

/// Everything that a newer process is given.
pub(crate) struct Offer {
    pub(crate) secrets: QuicSecrets,
    pub(crate) admin: (SocketAddr, OwnedFd),
    pub(crate) listening: Vec<Listening>,
}

/// How an offer is written down; its sockets come beside it, in this order: the admin port's, then for each address TCP, UDP,
/// and the elders'.
#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    secrets: QuicSecrets,
    admin: SocketAddr,
    listening: Vec<Address>,
}

#[derive(Serialize, Deserialize)]
struct Address {
    asked: SocketAddr,
    addr: SocketAddr,
    /// None without HTTP/3.
    elders: Option<Vec<Mark>>,
}

impl Offer {
    fn describe(&self) -> (Description, Vec<BorrowedFd<'_>>) {
        let mut fds = vec![self.admin.1.as_fd()];
        let mut listening = Vec::with_capacity(self.listening.len());
        for one in &self.listening {
            fds.push(one.tcp.as_fd());
            if let Some(udp) = &one.udp {
                fds.push(udp.socket.as_fd());
                fds.extend(udp.elders.iter().map(|(_, relay)| relay.as_fd()));
            }
            let elders = one.udp.as_ref().map(|udp| udp.elders.iter().map(|(mark, _)| *mark).collect());
            listening.push(Address { asked: one.asked, addr: one.addr, elders });
        }
        (Description { version: VERSION, secrets: self.secrets, admin: self.admin.0, listening }, fds)
    }

    fn assemble(description: Description, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let admin = (description.admin, fds.next()?);
        let mut listening = Vec::with_capacity(description.listening.len());
        for Address { asked, addr, elders } in description.listening {
            let tcp = fds.next()?;
            let udp = match elders {
                None => None,
                Some(marks) => {
                    let socket = fds.next()?;
                    let elders = marks.into_iter().map(|mark| Some((mark, fds.next()?))).collect::<Option<_>>()?;
                    Some(Udp { socket, elders })
                }
            };
            listening.push(Listening { asked, addr, tcp, udp });
        }
        fds.next().is_none().then_some(Self { secrets: description.secrets, admin, listening })
    }
}

/// Sends an offer with its sockets.
pub(super) async fn send(stream: &mut UnixStream, offer: &Offer) -> io::Result<Result<(), Error>> {
    let (description, fds) = offer.describe();
    if fds.len() > MAX_FDS {
        return Ok(Err(Error::TooMany(fds.len())));
    }
    let text = serde_json::to_vec(&description)?;
    let length = (text.len() as u32).to_be_bytes();
    let sent = loop {
        stream.writable().await?;
        let sending = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Ok(rustix::net::sendmsg(&*stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?)
        });
        match sending {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            done => break done?,
        }
    };
    stream.write_all(&length[sent..]).await?;
    stream.write_all(&text).await?;
    Ok(Ok(()))
}

/// Receives what [`send`] sends.
pub(super) async fn receive(stream: &mut UnixStream) -> io::Result<Result<Offer, Error>> {
    let mut length = [0; 4];
    let mut fds = Vec::new();
    let read = loop {
        stream.readable().await?;
        let receiving = stream.try_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut length)];
            let message = rustix::net::recvmsg(&*stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
            Ok(message.bytes)
        });
        match receiving {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            done => break done?,
        }
    };
    stream.read_exact(&mut length[read..]).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_OFFER {
        return Ok(Err(Error::Malformed));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok(match serde_json::from_slice::<Description>(&text) {
        Ok(description) if description.version != VERSION => Err(Error::Version(description.version)),
        Ok(description) => Offer::assemble(description, fds).ok_or(Error::Malformed),
        Err(_) => Err(Error::Malformed),
    })
}
