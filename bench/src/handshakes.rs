//! What a TLS 1.3 handshake costs the gateway: the CPU time of its process, for full ones and for resumed ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use nearfield_testkit::{KeyAlgorithm, Protocol, eventually, tls};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Arguments;
use crate::server::Server;
use crate::table::Table;

/// Under way at once.
const AT_ONCE: usize = 4;
/// Before anything is counted.
const WARM: usize = 50;
const SERVED: Duration = Duration::from_secs(60);

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let count = arguments.handshakes;
    let mut table =
        Table::new(&["TLS 1.3 over TCP", "key exchange", "connections", "CPU ms each", "of which the handshake"]);
    let server = Server::start()?;
    let addr = server.client(Protocol::Http1)?.addr();
    let plain = measure(&server, count, || connect(addr)).await?;
    table.row(["none: TCP alone".to_owned(), "–".to_owned(), count.to_string(), format!("{plain:.3}"), "0".to_owned()]);
    for (name, algorithm) in [("ECDSA P-256", KeyAlgorithm::EcdsaP256), ("RSA 2048", KeyAlgorithm::Rsa2048)] {
        server.cluster.renew_certificate(algorithm)?;
        let config = Arc::new(tls::config(Some(&server.cluster.ca()), Protocol::Http1)?);
        let leaf = CertificateDer::from_pem_file(server.cluster.directory().join("leaf.pem"))?;
        // A session that is resumed shows the certificate that it began with, and outlives a swap.
        let mut afresh = ClientConfig::clone(&config);
        afresh.resumption = Resumption::disabled();
        let afresh = Arc::new(afresh);
        let is_served =
            || async { Shaken::with(addr, &afresh).await.ok().filter(|shaken| shaken.leaf == leaf).map(drop) };
        eventually("the new certificate is served", SERVED, is_served).await?;
        for resumed in [false, true] {
            let mut config = ClientConfig::clone(&config);
            config.resumption = if resumed { Resumption::in_memory_sessions(256) } else { Resumption::disabled() };
            let config = Arc::new(config);
            let group = Shaken::with(addr, &config).await?.group;
            // Each takes one ticket and brings two: enough for all that are under way at once.
            for _ in 0..AT_ONCE {
                Shaken::with(addr, &config).await?;
            }
            let spent = measure(&server, count, || async {
                let shaken = Shaken::with(addr, &config).await?;
                anyhow::ensure!((shaken.kind == HandshakeKind::Resumed) == resumed, "a {:?} handshake", shaken.kind);
                Ok(())
            });
            let spent = spent.await?;
            let name = format!("{name}, {}", if resumed { "resumed" } else { "full" });
            table.row([name, group, count.to_string(), format!("{spent:.3}"), format!("{:.3}", spent - plain)]);
        }
    }
    table.print();
    Ok(())
}

/// Milliseconds of the gateway's CPU time for each of `count` rounds.
async fn measure<F>(server: &Server, count: usize, round: impl Fn() -> F) -> Result<f64>
where
    F: Future<Output = Result<()>>,
{
    let rounds = |count| futures::stream::iter((0..count).map(|_| round())).buffer_unordered(AT_ONCE);
    rounds(WARM).try_collect::<()>().await?;
    let before = server.cluster.gateway().cpu_time()?;
    rounds(count).try_collect::<()>().await?;
    let spent = server.cluster.gateway().cpu_time()? - before;
    Ok(spent.as_secs_f64() * 1e3 / count as f64)
}

async fn connect(addr: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

struct Shaken {
    kind: HandshakeKind,
    group: String,
    /// What the server showed, now or when the session began.
    leaf: CertificateDer<'static>,
}

impl Shaken {
    /// Shakes hands, and stays until the server has sent its tickets.
    async fn with(addr: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let name = ServerName::try_from("localhost")?;
        let mut stream = TlsConnector::from(config.clone()).connect(name, TcpStream::connect(addr).await?).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut Vec::new()).await?;
        let session = stream.get_ref().1;
        let group =
            session.negotiated_key_exchange_group().map_or_else(String::new, |group| format!("{:?}", group.name()));
        let leaf = session.peer_certificates().and_then(|chain| chain.first()).context("a certificate")?.clone();
        Ok(Self { kind: session.handshake_kind().context("a handshake")?, group, leaf })
    }
}
