//! The UDP side: quinn speaks QUIC, h3 frames HTTP/3 on it, each request goes to the same pipeline.
//!
//! It runs inside the host's pingora service, on its runtime.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use h3::server::{RequestResolver, RequestStream};
use http::{Method, header};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;

use super::connection::{Peer, Shared};
use super::door::Limit;
use super::quic_answer::{answer, date, taken};
use super::quic_body::QuicBody;
use super::quic_early::{self, Client, Opened, Proven};
use super::quic_fields::Protocol;
use super::quic_head::well_formed;
use super::quic_recv::Recv;
use super::quic_sieve::Sieve;
use super::quic_streams::{self, Beside, Stopped};
use super::quic_tunnel::Tunnel;
use super::quic_waste::{Outcome, Waste};
use super::sockets::BoundUdp;
use super::tls::{self, Certificates, Material};
use super::{Http3, Mark, QuicSecrets, SharedSocket, tcp};
use crate::body::{self, Request};
use crate::gateway::Error;
use crate::request::{PeerIdentity, Transport};
use crate::upgrade::Offer;

/// Whatever ends a connection or an answer early; it is only logged.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;
type Connection = h3::server::Connection<quic_streams::Connection, Bytes>;
type Resolver = RequestResolver<quic_streams::Connection, Bytes>;
type SendHalf = RequestStream<quic_streams::Send, Bytes>;
type RecvHalf = RequestStream<Recv, Bytes>;

/// First datagrams that wait to be taken up, for each handshake that may be under way: many come at once.
const WAITING_PER_HANDSHAKE: usize = 4;
/// Bytes that may come behind such a datagram while it waits: what a client sends before it hears anything (RFC 9002 section
/// 7.2), early data with it.
const BEHIND_FIRST: u64 = 16 << 10;
/// HTTP/3 needs three unidirectional streams from the client: control and QPACK's two; and some may be greased.
const UNI_STREAMS: u32 = 8;

/// An endpoint on `socket`, on the current runtime.
///
/// # Errors
/// When the socket is not usable for QUIC.
pub(super) fn endpoint(
    udp: BoundUdp,
    (mark, secrets): (Mark, QuicSecrets),
    shared: &Shared,
    certificates: &Certificates,
) -> Result<(quinn::Endpoint, Arc<SharedSocket>), Error> {
    let limits = &shared.config;
    let config = server_config(&limits.http3, limits.idle_timeout, &certificates.current(), secrets);
    let runtime = Arc::new(quinn::TokioRuntime);
    let sieve = Sieve::new(udp.socket.try_clone().map_err(Error::Quic)?.into());
    let socket = quinn::Runtime::wrap_udp_socket(&*runtime, udp.socket).map_err(Error::Quic)?;
    let socket = SharedSocket::new(socket, udp.elders, shared.door.clone(), sieve);
    let endpoint = secrets.endpoint_config(mark);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint, Some(config), socket.clone(), runtime);
    Ok((endpoint.map_err(Error::Quic)?, socket))
}

pub(super) fn server_config(
    limits: &Http3,
    idle: Duration,
    material: &Material,
    secrets: QuicSecrets,
) -> quinn::ServerConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.max_concurrent_streams.into())
        .max_concurrent_uni_streams(UNI_STREAMS.into())
        .stream_receive_window(limits.stream_window.into())
        .receive_window(limits.connection_window.into())
        .send_window(limits.connection_window.into())
        .max_idle_timeout(Some(IdleTimeout::try_from(idle).unwrap_or_else(|_too_long| VarInt::MAX.into())))
        .datagram_receive_buffer_size(None);
    let mut config = secrets.server_config(material.quic.clone());
    let waiting = limits.max_handshakes.saturating_mul(WAITING_PER_HANDSHAKE);
    config
        .transport_config(Arc::new(transport))
        .max_incoming(waiting)
        .incoming_buffer_size(BEHIND_FIRST)
        .incoming_buffer_size_total(BEHIND_FIRST.saturating_mul(limits.max_handshakes as u64));
    config
}

/// Takes connections up until the drain, and then waits for those that are open.
pub(super) async fn serve(
    endpoint: &quinn::Endpoint,
    certificates: Arc<Certificates>,
    secrets: QuicSecrets,
    shared: Arc<Shared>,
) {
    let mut replaced = certificates.replaced();
    let handshakes = Arc::new(Semaphore::new(shared.config.http3.max_handshakes.min(Semaphore::MAX_PERMITS)));
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.drain.started() => break,
            Ok(()) = replaced.changed() => {
                let material = replaced.borrow_and_update().clone();
                let config = server_config(&shared.config.http3, shared.config.idle_timeout, &material, secrets);
                endpoint.set_server_config(Some(config));
                continue;
            }
        };
        let Some(incoming) = incoming else { break };
        let Some(place) = shared.door.enter() else {
            incoming.refuse();
            continue;
        };
        let addr = incoming.remote_address().ip();
        let proven = incoming.remote_address_validated();
        if proven && !shared.door.admits(addr) || !proven && !shared.door.awaits(addr) {
            incoming.refuse();
            continue;
        }
        // While many are under way, or this client's are too many, it shows that it can be answered at its address before it
        // costs one more.
        let handshake = handshakes.clone().try_acquire_owned().ok();
        if (handshake.is_none() || !proven && shared.door.doubts(addr)) && incoming.may_retry() {
            // It fails only for what `may_retry` excludes.
            let _refused = incoming.retry();
            continue;
        }
        let admitted = shared.drain.admit();
        let (shared, timeout) = (shared.clone(), certificates.handshake_timeout());
        tokio::spawn(async move {
            // Boxed, both: what is begun and left costs no room for what would follow, and that none for what was.
            match Box::pin(quic_early::open(incoming, timeout)).await {
                Ok(opened) => {
                    let client = Client::Outside { _under_way: handshake, place, addr, admitted: proven };
                    if let Err(error) = Box::pin(connection(opened, client, shared)).await {
                        tracing::debug!(error = &*error, "connection ended");
                    }
                }
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "handshake failed"),
            }
            drop(admitted);
        });
    }
    endpoint.set_server_config(None);
    endpoint.wait_idle().await;
}

async fn connection(opened: Opened, mut client: Client, shared: Arc<Shared>) -> Result<(), Cause> {
    let Opened { quic, first, mut handshake } = opened;
    let (proven, max_fields) = (Proven::default(), shared.config.http3.max_header_bytes);
    if handshake.is_done() {
        client.enter(&quic, &shared.door, &proven)?;
    }
    let watch = (shared.door.clone(), proven.clone());
    let (streams, accepted_streams) = quic_streams::Connection::new(quic.clone(), first, max_fields, watch);
    let mut builder = h3::server::builder();
    let building = builder.max_field_section_size(max_fields).enable_extended_connect(true).build(streams);
    // It needs streams, which the client has to allow. Boxed, as is what is said at the end: idle connections have no room for it.
    let mut h3: Connection = Box::pin(tokio::time::timeout(shared.config.http3.header_timeout, building)).await??;
    // Dropped with the connection: what its client asked for is cancelled when it goes.
    let mut requests = JoinSet::new();
    // Of the TLS handshake: a client may move to another address, not to another certificate.
    let identity = identity(&quic);
    let (mut draining, mut waste) = (false, Waste::new());
    let ended = loop {
        tokio::select! {
            accepted = h3.accept() => match accepted {
                Ok(Some(resolver)) => {
                    let beside = accepted_streams.take();
                    let early = handshake.early().filter(|_| beside.early);
                    let peer = Peer { addr: tcp::canonical(quic.remote_address()), identity: identity.clone(), early };
                    requests.spawn(request(resolver, beside, quic.clone(), peer, shared.clone()));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            Some(done) = requests.join_next() => match done {
                Ok(outcome) if waste.count(outcome) => {}
                Ok(_too_much) => {
                    shared.door.cut(Limit::Http3Resets, proven.get().copied());
                    let code = quic_streams::varint(Code::H3_EXCESSIVE_LOAD.value());
                    quic.close(code, b"too many requests come to nothing");
                    return Ok(());
                }
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a request's task died"),
            },
            done = handshake.rest() => {
                done?;
                client.enter(&quic, &shared.door, &proven)?;
            }
            () = shared.drain.started(), if !draining => {
                draining = true;
                // GOAWAY names the first request that will not be served: the one after the last accepted.
                Box::pin(h3.shutdown(1)).await?;
            }
        }
        if draining && requests.is_empty() {
            break Ok(());
        }
    };
    if ended.is_ok() {
        // What is still being answered, or has not been acknowledged yet, ends first: closing throws it away.
        let answering = async { while requests.join_next().await.is_some() {} };
        handshake.beside(answering).await?;
    }
    drop(h3);
    match ended {
        Err(error) if !error.is_h3_no_error() => Err(error.into()),
        _ => Ok(()),
    }
}

fn identity(quic: &quinn::Connection) -> Option<PeerIdentity> {
    let chain = quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    tls::identity(chain.as_deref().map(Vec::as_slice))
}

async fn request(
    resolver: Resolver,
    beside: Beside,
    quic: quinn::Connection,
    peer: Peer,
    shared: Arc<Shared>,
) -> Outcome {
    let Beside { mut stopped, told, early: _ } = beside;
    let resolved = tokio::time::timeout(shared.config.http3.header_timeout, resolver.resolve_request()).await;
    let (head, stream) = match resolved {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "request head refused");
            return Outcome::wasted(&told);
        }
        // Dropping the stream resets it.
        Err(_elapsed) => {
            shared.door.cut(Limit::Head, None);
            return Outcome::wasted(&told);
        }
    };
    let (mut send, recv) = stream.split();
    let protocol = told.protocol();
    if told.is_malformed() || !well_formed(&head, protocol) {
        send.stop_stream(Code::H3_MESSAGE_ERROR);
        return Outcome::wasted(&told);
    }
    if let Some(protocol) = protocol {
        connect(head.map(|()| body::empty()), protocol, &peer, (send, recv), stopped, &shared).await;
        return Outcome::Answered;
    }
    let is_head = *head.method() == Method::HEAD;
    let length = head.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let mut request = head.map(|()| body::boxed(QuicBody::new(recv, length)));
    peer.mark(request.extensions_mut());
    request.extensions_mut().insert(Transport::Http3);
    let patience = shared.config.send_timeout;
    let answered = {
        let answering = async {
            let response = shared.pipeline.call(request).await.unwrap_or_else(|never| match never {});
            if told.is_malformed() {
                return Err(Malformed.into());
            }
            answer(&mut send, response, is_head, patience).await
        };
        tokio::select! {
            biased;
            answered = answering => answered,
            // Dropping what answers cancels it, down to the index.
            () = &mut stopped => Err(GaveUp.into()),
        }
    };
    let answered = match answered {
        Ok(()) => taken(&mut stopped, &quic, patience).await,
        failed => failed,
    };
    let Err(error) = answered else { return Outcome::Answered };
    tracing::debug!(error = &*error, "answer broken off");
    if error.is::<Elapsed>() {
        shared.door.cut(Limit::Answer, None);
    }
    send.stop_stream(if error.is::<Malformed>() { Code::H3_MESSAGE_ERROR } else { Code::H3_REQUEST_CANCELLED });
    Outcome::wasted(&told)
}

/// An extended CONNECT (RFC 9220): once it is answered well the stream belongs to whoever took it.
async fn connect(
    mut request: Request,
    protocol: Protocol,
    peer: &Peer,
    (mut send, recv): (SendHalf, RecvHalf),
    stopped: Stopped,
    shared: &Shared,
) {
    let (offer, give) = Offer::new();
    let extensions = request.extensions_mut();
    peer.mark(extensions);
    extensions.insert(Transport::Http3);
    extensions.insert(protocol.extension());
    extensions.insert(offer.clone());
    let response = shared.pipeline.call(request).await.unwrap_or_else(|never| match never {});
    let taken = response.status().is_success() && !offer.is_open();
    let answered = if taken {
        let (mut parts, _body) = response.into_parts();
        date(&mut parts.headers);
        send.send_response(http::Response::from_parts(parts, ())).await.map_err(Cause::from)
    } else {
        answer(&mut send, response, false, shared.config.send_timeout).await
    };
    match answered {
        // Nobody may be waiting for it any more.
        Ok(()) if taken => drop(give.send(Box::new(Tunnel::new(send, recv)))),
        Ok(()) => drop(send),
        Err(error) => {
            tracing::debug!(error = &*error, "answer broken off");
            send.stop_stream(Code::H3_REQUEST_CANCELLED);
            return;
        }
    }
    // A connection that drains waits for its requests, and so for this stream.
    stopped.await;
}

/// The client sent STOP_SENDING, or is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client gave the request up")]
struct GaveUp;

/// The request turned out to be none behind its head.
#[derive(Debug, thiserror::Error)]
#[error("the request is malformed")]
struct Malformed;
