//! Client certificates: who is taken, who is not, and what the pipeline learns.

use std::sync::Arc;

use nearfield_gateway::body::{self, Request, Response};
use nearfield_gateway::error::Error;
use nearfield_gateway::request::PeerIdentity;

use crate::authority::{Authority, Leaf};
use crate::support::{Client, Connection, Edge, READ, TRANSPORTS, Transport, tls_config};

/// Answers with the client's names.
async fn whoami(request: Request) -> Result<Response, Error> {
    let identity = request.extensions().get::<PeerIdentity>();
    let text =
        identity.map_or_else(|| "nobody".to_owned(), |who| [&who.uris[..], &who.dns_names[..]].concat().join(" "));
    Ok(Response::new(body::full(text)))
}

struct Callers {
    edge: Edge,
    authority: Authority,
}

impl Callers {
    async fn start(required: bool) -> Self {
        let authority = Authority::new();
        let set = |config: &mut nearfield_gateway::config::Config| {
            let dir = config.tls.certificate.parent().unwrap().to_owned();
            config.tls.client.ca = Some(authority.write(&dir));
            config.tls.client.crl = Some(authority.revoke(&dir, &[]));
            config.tls.client.required = required;
        };
        let edge = Edge::start(set, hyper::service::service_fn(whoami)).await;
        Self { edge, authority }
    }

    /// What a client with this certificate is told.
    async fn ask(&self, transport: Transport, leaf: Option<&Leaf>) -> anyhow::Result<String> {
        let mut config = tls_config(&self.edge.certificate.der, &[]);
        if let Some(leaf) = leaf {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.edge.certificate.der.clone())?;
            let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
            config = builder.with_client_auth_cert(vec![leaf.der.clone()], leaf.private_key())?;
        }
        let connection = Connection::with(self.edge.gateway.https_addr(), config, transport).await?;
        let mut client = Client { connection, authorization: Some(self.edge.authorization.clone()) };
        let answer = client.try_send(http::Request::get(READ), "").await?;
        Ok(String::from_utf8(answer.body.to_vec())?)
    }
}

const SPIFFE: &str = "spiffe://example.org/ingest";

#[tokio::test(flavor = "multi_thread")]
async fn the_pipeline_learns_whose_certificate_a_client_owns() {
    let callers = Callers::start(false).await;
    let leaf = callers.authority.leaf(1, &["ingest.internal"], &[SPIFFE]);
    let stranger = Authority::new().leaf(1, &["ingest.internal"], &[SPIFFE]);
    for transport in TRANSPORTS {
        assert_eq!(callers.ask(transport, None).await.unwrap(), "nobody", "{transport:?}");
        let known = callers.ask(transport, Some(&leaf)).await.unwrap();
        assert_eq!(known, format!("{SPIFFE} ingest.internal"), "{transport:?}");
        callers.ask(transport, Some(&stranger)).await.expect_err("another authority's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_certificate_is_required_on_every_transport() {
    let callers = Callers::start(true).await;
    let leaf = callers.authority.leaf(1, &["ingest.internal"], &[]);
    for transport in TRANSPORTS {
        callers.ask(transport, None).await.expect_err("no certificate");
        assert_eq!(callers.ask(transport, Some(&leaf)).await.unwrap(), "ingest.internal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_revoked_without_a_restart_and_its_sessions_with_it() {
    let callers = Callers::start(false).await;
    let (good, bad) = (callers.authority.leaf(1, &["good"], &[]), callers.authority.leaf(2, &["bad"], &[]));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(callers.edge.certificate.der.clone()).unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let session = Arc::new(builder.with_client_auth_cert(vec![bad.der.clone()], bad.private_key()).unwrap());
    let addr = callers.edge.gateway.https_addr();
    let resumable = || async {
        let connection = Connection::with(addr, (*session).clone(), Transport::Http1).await?;
        let mut client = Client { connection, authorization: Some(callers.edge.authorization.clone()) };
        client.try_send(http::Request::get(READ), "").await
    };
    assert_eq!(resumable().await.unwrap().body, "bad");
    callers.authority.revoke(callers.edge.certificate.dir.path(), &[2]);
    callers.edge.gateway.reload_certificate().unwrap();
    resumable().await.expect_err("its ticket does not get it past the list");
    for transport in TRANSPORTS {
        callers.ask(transport, Some(&bad)).await.expect_err("revoked");
        assert_eq!(callers.ask(transport, Some(&good)).await.unwrap(), "good");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_list_is_refused_and_the_old_one_kept() {
    let callers = Callers::start(false).await;
    let dir = callers.edge.certificate.dir.path();
    let leaf = callers.authority.leaf(1, &["ingest.internal"], &[]);
    callers.authority.revoke(dir, &[1]);
    callers.edge.gateway.reload_certificate().unwrap();
    fs_err::write(dir.join("revoked.pem"), "nothing").unwrap();
    callers.edge.gateway.reload_certificate().unwrap_err();
    callers.ask(Transport::Http2, Some(&leaf)).await.expect_err("still revoked");
}
