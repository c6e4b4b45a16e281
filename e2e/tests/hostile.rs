//! Peers that do not play by the rules, over loopback and bounded: the process stays whole and serves the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use nearfield_testkit::{Claims, Cluster, ClusterOptions, Protocol, tls};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::client::TlsStream;

use crate::space::{API, Space, dev};

const PATIENCE: Duration = Duration::from_secs(20);

fn address() -> Result<SocketAddr> {
    Ok(dev()?.client(Protocol::Http2)?.addr())
}

/// The server answers each protocol, and is the same process as before.
async fn unharmed() -> Result<()> {
    assert!(dev()?.process().is_running());
    for protocol in Protocol::ALL {
        dev()?.client(protocol)?.get("/health/ready").send().await?.expect(200)?;
    }
    Ok(())
}

/// Sends bytes and reads what comes until the peer closes or falls silent.
async fn send(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let exchange = async {
        if stream.write_all(bytes).await.is_ok() {
            let mut buffer = [0; 4096];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 || answer.len() > 1 << 20 {
                    break;
                }
                answer.extend_from_slice(&buffer[..n]);
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), exchange).await;
    answer
}

async fn tls_stream(protocol: Protocol) -> Result<TlsStream<TcpStream>> {
    let config = Arc::new(tls::config(Some(&dev()?.ca()), protocol)?);
    let stream = TcpStream::connect(address()?).await?;
    Ok(tokio_rustls::TlsConnector::from(config).connect(ServerName::try_from("127.0.0.1")?, stream).await?)
}

#[tokio::test]
async fn bytes_that_are_no_tls() -> Result<()> {
    let mut random = StdRng::seed_from_u64(1);
    let mut cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        // A record that says it is longer than it is, one past the limit, an alert, a half ClientHello.
        vec![22, 3, 1, 2, 0, 1],
        [vec![22, 3, 3, 255, 255], vec![0; 70_000]].concat(),
        vec![21, 3, 3, 0, 2, 2, 40],
        vec![22, 3, 1, 0, 5, 1, 0, 0, 250, 3],
        vec![0x80, 0x2e, 1, 0, 2],
    ];
    cases.extend((0..20).map(|_| (0..random.random_range(1..3000)).map(|_| random.random::<u8>()).collect()));
    for case in cases {
        let mut stream = TcpStream::connect(address()?).await?;
        send(&mut stream, &case).await;
    }
    unharmed().await
}

#[tokio::test]
async fn tls_that_is_cut_off() -> Result<()> {
    for _ in 0..10 {
        let mut stream = tls_stream(Protocol::Http1).await?;
        stream.write_all(b"POST /api/v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"que").await?;
        stream.flush().await?;
        // No close_notify, the socket is just gone.
        stream.get_ref().0.set_zero_linger()?;
        drop(stream);
    }
    unharmed().await
}

#[tokio::test]
async fn http1_that_is_malformed() -> Result<()> {
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Header: 1\r\n".repeat(5000));
    for case in [
        "\r\n\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /api/v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /api/v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /api/v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        "POST /api/v1/search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
        "POST /api/v1/search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: \0\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        &long,
        &many,
    ] {
        let mut stream = tls_stream(Protocol::Http1).await?;
        let answer = send(&mut stream, case.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty()
            || answer.starts_with("HTTP/1.1 4")
            || answer.starts_with("HTTP/1.0 4")
            || answer.starts_with("HTTP/1.1 505");
        let head: String = case.chars().take(80).collect();
        assert!(refused, "{head:?}: {}", answer.chars().take(300).collect::<String>());
    }
    unharmed().await
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn http2_that_is_malformed() -> Result<()> {
    let mut random = StdRng::seed_from_u64(2);
    let noise: Vec<u8> = (0..4000).map(|_| random.random()).collect();
    let resets: Vec<u8> = (0..2000)
        .flat_map(|i| {
            // Rapid reset: a request and its cancellation, again and again (CVE-2023-44487).
            let stream = 2 * i + 1;
            [frame(1, 5, stream, &[0x82, 0x87, 0x84]), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    let continuations: Vec<u8> = (0..2000).flat_map(|_| frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'])).collect();
    for case in [
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        [PREFACE, &noise].concat(),
        [PREFACE, &SETTINGS, &noise].concat(),
        [PREFACE, &SETTINGS, &frame(1, 4, 0, b"x")].concat(),
        [PREFACE, &SETTINGS, &frame(1, 4, 1, &[0xff; 40])].concat(),
        [PREFACE, &SETTINGS, &frame(0, 0, 1, b"data before headers")].concat(),
        [PREFACE, &SETTINGS, &frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])].concat(),
        [PREFACE, &SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        [PREFACE, &SETTINGS, &frame(4, 0, 0, &[0; 7])].concat(),
        [PREFACE, &SETTINGS, &frame(6, 0, 0, &[0; 8]).repeat(20_000)].concat(),
        [PREFACE, &SETTINGS, &resets].concat(),
        [PREFACE, &SETTINGS, &frame(1, 0, 1, &[0x82, 0x87, 0x84]), &continuations].concat(),
    ] {
        let mut stream = tls_stream(Protocol::Http2).await?;
        send(&mut stream, &case).await;
    }
    unharmed().await
}

#[tokio::test]
async fn datagrams_that_are_no_quic() -> Result<()> {
    let mut random = StdRng::seed_from_u64(3);
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    for i in 0..300 {
        let mut datagram: Vec<u8> = (0..random.random_range(1..1400)).map(|_| random.random()).collect();
        if i % 2 == 0 && datagram.len() > 5 {
            // A long header of version 1.
            datagram[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        }
        socket.send_to(&datagram, address()?).await?;
    }
    unharmed().await
}

#[tokio::test]
async fn peers_that_send_a_byte_now_and_then() -> Result<()> {
    let mut slow = Vec::new();
    for i in 0..150 {
        match i % 3 {
            // Nothing at all, not even a handshake.
            0 => {
                let stream = TcpStream::connect(address()?).await?;
                slow.push(tokio::spawn(async move {
                    let mut stream = stream;
                    send(&mut stream, &[22]).await;
                }));
            }
            1 => {
                let mut stream = tls_stream(Protocol::Http1).await?;
                stream.write_all(b"GET /health/ready HTTP/1.1\r\nHo").await?;
                slow.push(tokio::spawn(async move {
                    send(&mut stream, b"s").await;
                }));
            }
            _ => {
                let mut stream = tls_stream(Protocol::Http2).await?;
                stream.write_all(PREFACE).await?;
                slow.push(tokio::spawn(async move {
                    send(&mut stream, &[0, 0]).await;
                }));
            }
        }
        if i % 50 == 0 {
            unharmed().await?;
        }
    }
    unharmed().await?;
    for task in slow {
        task.await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_hold_the_server() -> Result<()> {
    let space = Space::new("hostile-slow")?;
    space.create("c", json!({"dimension": 2})).await?;
    let mut held = Vec::new();
    for protocol in Protocol::ALL {
        for _ in 0..30 {
            let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(1);
            sender.send(Ok(Bytes::from_static(b"{\"collection\":\"c\","))).await?;
            let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let request =
                space.client(protocol)?.post(&format!("{API}/search")).header("content-type", "application/json");
            let request = request.header("x-request-timeout", "2s").stream(stream);
            held.push((sender, tokio::spawn(request.send())));
        }
    }
    let search = json!({"collection": "c", "query": [1, 0]});
    space.client.post(&format!("{API}/search")).json(&search).send().await?.expect(200)?;
    for (sender, task) in held {
        // The deadline counts from the head of the request: 408 or 504, or the connection is ended.
        if let Ok(answer) = tokio::time::timeout(PATIENCE, task).await?? {
            assert!([408, 504].contains(&answer.status.as_u16()), "{}: {}", answer.status, answer.text());
        }
        drop(sender);
    }
    unharmed().await
}

#[tokio::test]
async fn connections_past_the_limit_are_turned_away_and_come_back() -> Result<()> {
    let gateway = vec![("NEARFIELD_LISTENER__MAX_CONNECTIONS", "40")];
    let cluster = Cluster::start(&ClusterOptions { searchds: 1, gateway, ..ClusterOptions::default() })?;
    let client = cluster.client_as(Protocol::Http1, &Claims::of_tenant("hostile-many"))?;
    let mut open = Vec::new();
    for _ in 0..60 {
        let connected = TcpStream::connect(client.addr()).await?;
        open.push(connected);
    }
    assert!(cluster.gateway().is_running());
    drop(open);
    let again = || async { client.get("/health/ready").send().await.ok().filter(|a| a.status == 200) };
    nearfield_testkit::eventually("the server takes connections again", PATIENCE, again).await?;
    Ok(())
}
