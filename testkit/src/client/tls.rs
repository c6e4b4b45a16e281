//! Client TLS configurations.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Protocol;

/// Trusts the CA in the PEM file `ca`, or anyone when there is none, and offers just this protocol by ALPN.
pub fn config(ca: Option<&Path>, protocol: Protocol) -> Result<ClientConfig> {
    let mut config = match ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("reading {}", ca.display()))? {
                roots.add(certificate?)?;
            }
            ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
        }
        None => {
            let builder = ClientConfig::builder().dangerous();
            builder.with_custom_certificate_verifier(Arc::new(TrustAnyone::default())).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Http2 => b"h2".to_vec(),
        Protocol::Http3 => b"h3".to_vec(),
    }];
    Ok(config)
}

/// Trusts anyone, for tests against servers whose CA is not at hand, and counts how often it was shown a certificate: a resumed
/// session shows none.
#[derive(Debug, Default)]
pub struct TrustAnyone(AtomicUsize);

impl TrustAnyone {
    pub fn shown(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
