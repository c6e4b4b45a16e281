//! Servers that pass their health checks and answer calls as nobody should.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use nearfield_proto::v1;
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// What is done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Bytes that are no HTTP/2 frame.
    BadFrames,
    /// A message that is no protobuf.
    BadMessage,
    /// The connection is closed.
    Dies,
    /// A message of 60 MiB is announced and comes byte by byte.
    EndlessMessage,
    /// Good messages for ever, where one is asked for.
    EndlessStream,
    /// A header block of CONTINUATION frames without end.
    EndlessHeaders,
    GarbageTrailers,
    /// Nothing.
    Hangs,
    /// A header block is begun, and the connection hangs with it.
    HalfHeaders,
    Http500,
    /// The stream ends without trailers.
    NoStatus,
    Resets,
    WrongContentType,
}

impl Lie {
    pub(crate) const ALL: [Self; 13] = [
        Self::BadFrames,
        Self::BadMessage,
        Self::Dies,
        Self::EndlessMessage,
        Self::EndlessStream,
        Self::EndlessHeaders,
        Self::GarbageTrailers,
        Self::Hangs,
        Self::HalfHeaders,
        Self::Http500,
        Self::NoStatus,
        Self::Resets,
        Self::WrongContentType,
    ];
}

pub(crate) struct Liar {
    address: SocketAddr,
    /// Calls that were lied to.
    pub(crate) asked: Arc<AtomicU64>,
    serving: tokio::task::JoinHandle<()>,
}

impl Liar {
    pub(crate) async fn start(lie: Lie) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(crate::support::ANY)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let counted = asked.clone();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, lie, counted.clone()));
            }
        });
        Self { address, asked, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(stream: TcpStream, lie: Lie, asked: Arc<AtomicU64>) {
    let stream = stream.into_std().unwrap();
    // What is not HTTP/2 is written past the one that speaks it.
    let raw = Arc::new(tokio::sync::Mutex::new(TcpStream::from_std(stream.try_clone().unwrap()).unwrap()));
    let Ok(mut connection) = h2::server::handshake(TcpStream::from_std(stream).unwrap()).await else { return };
    let mut calls = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        if request.uri().path() == "/grpc.health.v1.Health/Check" {
            let serving = tonic_health::pb::HealthCheckResponse { status: 1 };
            calls.spawn(async move { truth(respond, &serving) });
            continue;
        }
        asked.fetch_add(1, Ordering::Relaxed);
        if lie == Lie::Dies {
            return;
        }
        calls.spawn(answer(lie, request, respond, raw.clone()));
    }
}

fn truth(mut respond: SendResponse<Bytes>, message: &impl Message) {
    let Ok(mut body) = respond.send_response(head(), false) else { return };
    // The client may have left.
    let _ = body.send_data(frame(message), false);
    let _ = body.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]));
}

async fn answer(
    lie: Lie,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    raw: Arc<tokio::sync::Mutex<TcpStream>>,
) {
    let stream = respond.stream_id();
    let good = frame(&v1::SearchResponse::default());
    let trailers =
        |status: &'static str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
    match lie {
        Lie::BadFrames => {
            let _ = raw.lock().await.write_all(&[0xff; 4096]).await;
        }
        Lie::Hangs | Lie::Dies => {}
        Lie::HalfHeaders | Lie::EndlessHeaders => {
            let mut raw = raw.lock().await;
            // HEADERS of one byte (`:status: 200`), without END_HEADERS.
            let _ = raw.write_all(&raw_frame(1, stream.into(), &[0x88])).await;
            // A literal field without indexing, `a: a`.
            let field = [0, 1, b'a', 1, b'a'].repeat(200);
            while lie == Lie::EndlessHeaders && raw.write_all(&raw_frame(9, stream.into(), &field)).await.is_ok() {}
        }
        Lie::Resets => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        Lie::Http500 => {
            let _ = respond.send_response(Response::builder().status(500).body(()).unwrap(), true);
        }
        Lie::WrongContentType => {
            let html = Response::builder().header("content-type", "text/html").body(()).unwrap();
            if let Ok(mut body) = respond.send_response(html, false) {
                let _ = body.send_data("<h1>It works!</h1>".into(), true);
            }
        }
        Lie::BadMessage | Lie::GarbageTrailers | Lie::NoStatus => {
            let Ok(mut body) = respond.send_response(head(), false) else { return };
            let bad = lie == Lie::BadMessage;
            let _ = body.send_data(if bad { b"\0\0\0\0\x02\xff\xff"[..].into() } else { good }, lie == Lie::NoStatus);
            let _ = body.send_trailers(trailers(if bad { "0" } else { "seven" }));
        }
        Lie::EndlessMessage | Lie::EndlessStream => {
            let Ok(mut body) = respond.send_response(head(), false) else { return };
            if lie == Lie::EndlessMessage {
                let _ = body.send_data(b"\0\x03\xc0\0\0"[..].into(), false);
            }
            let piece = if lie == Lie::EndlessMessage { Bytes::from_static(b"\0") } else { good };
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            while body.send_data(piece.clone(), false).is_ok() {
                ticks.tick().await;
            }
        }
    }
    // Whoever asked leaves; until then the stream stays open.
    drop(request);
    let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn frame(message: &impl Message) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.into()
}

fn raw_frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, 0];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}
