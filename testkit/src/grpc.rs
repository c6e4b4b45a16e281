//! gRPC channels: through the gateway's TLS port with a token, and straight to a searchd.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::client::{Protocol, Way, tls, tls_stream};

/// A channel that sends the same credentials with each call.
pub type AuthorizedChannel = InterceptedService<Channel, Credentials>;

/// Adds `authorization` and the tenant that a gateway would add.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Credentials {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn bearer(token: &str) -> Result<Self> {
        Ok(Self { authorization: Some(format!("Bearer {token}").parse()?), tenant: None })
    }

    /// As searchd is told by a gateway.
    pub fn tenant(tenant: &str) -> Result<Self> {
        Ok(Self { authorization: None, tenant: Some(tenant.parse()?) })
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert(nearfield_proto::TENANT_METADATA, tenant.clone());
        }
        Ok(request)
    }
}

/// To the gateway at `https`, trusting the CA in the file `ca`.
pub async fn gateway(https: &str, ca: &Path, credentials: Credentials) -> Result<AuthorizedChannel> {
    crate::install_crypto_provider();
    let origin: Uri = https.parse()?;
    let authority = origin.authority().context("an address with a host")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let addr = SocketAddr::new(host.parse()?, authority.port_u16().context("a port")?);
    let config = Arc::new(tls::config(Some(ca), Protocol::Http2)?);
    let connector = service_fn(move |_: Uri| {
        let (config, host) = (config.clone(), host.clone());
        async move {
            tls_stream(Way { to: addr, from: None }, &host, config)
                .await
                .map(TokioIo::new)
                .map_err(std::io::Error::other)
        }
    });
    let channel = Endpoint::from_shared(https.to_owned())?.connect_with_connector(connector).await?;
    Ok(InterceptedService::new(channel, credentials))
}

/// To the searchd at `http`, in clear.
pub async fn searchd(http: &str, credentials: Credentials) -> Result<AuthorizedChannel> {
    let channel = Endpoint::from_shared(http.to_owned())?.connect().await?;
    Ok(InterceptedService::new(channel, credentials))
}
