//! Which certificate a client is shown, by the name that it asks for (SNI, RFC 6066 section 3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Loaded;

type Keys = Vec<Arc<CertifiedKey>>;

/// Certificates by exact name, then by wildcard, which stands for one label (RFC 9525 section 6.3), then the default:
/// a client that asks for no name, or for one that nobody has, decides for itself whether the default will do.
#[derive(Debug)]
pub(super) struct Names {
    exact: HashMap<String, Keys>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Keys>,
    default: Keys,
}

impl Names {
    /// The first of `certificates` is the default. Several for one name, an ECDSA and an RSA one say, are offered in
    /// their order: a client gets the first whose signatures it can check.
    pub(super) fn new(certificates: &[Loaded]) -> Self {
        let mut names = Self { exact: HashMap::new(), wildcard: HashMap::new(), default: Vec::new() };
        for certificate in certificates {
            for name in &certificate.names {
                let keys = match name.strip_prefix("*.") {
                    Some(rest) => names.wildcard.entry(rest.to_owned()),
                    None => names.exact.entry(name.clone()),
                };
                keys.or_default().push(certificate.key.clone());
            }
        }
        if let Some(default) = certificates.first() {
            names.default.push(default.key.clone());
            let shares_a_name = |other: &&Loaded| other.names.iter().any(|name| default.names.contains(name));
            names.default.extend(certificates[1..].iter().filter(shares_a_name).map(|other| other.key.clone()));
        }
        names
    }

    fn keys(&self, name: Option<&str>) -> &Keys {
        let found = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let by_wildcard = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
            self.exact.get(&name).or_else(by_wildcard)
        });
        found.unwrap_or(&self.default)
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys(name);
        keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).or_else(|| keys.first()).cloned()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::{Config, Loaded};
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, names: &[&str]) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let config = Config { certificate: dir.path().join("c.pem"), key: dir.path().join("k.pem"), names: Vec::new() };
        fs_err::write(&config.certificate, certificate.pem()).unwrap();
        fs_err::write(&config.key, key.serialize_pem()).unwrap();
        Loaded::read(&config, &rustls::crypto::aws_lc_rs::default_provider()).unwrap()
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_which_is_one_label_and_the_rest_get_the_default() {
        let ecdsa = &rcgen::PKCS_ECDSA_P256_SHA256;
        let all = [
            certificate(ecdsa, &["api.example.com"]),
            certificate(ecdsa, &["*.example.com"]),
            certificate(ecdsa, &["Www.Example.com"]),
        ];
        let names = Names::new(&all);
        let expect = |name: Option<&str>, i: usize| {
            let chosen = names.choose(name, &[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
            assert!(Arc::ptr_eq(&chosen, &all[i].key), "{name:?}");
        };
        expect(Some("api.example.com"), 0);
        expect(Some("www.example.com"), 2);
        expect(Some("other.EXAMPLE.com"), 1);
        expect(Some("a.b.example.com"), 0);
        expect(Some("example.com"), 0);
        expect(None, 0);
    }

    #[test]
    fn of_two_certificates_for_a_name_a_client_gets_the_one_that_it_can_check() {
        let all = [
            certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["a.example"]),
            certificate(&rcgen::PKCS_ED25519, &["a.example"]),
        ];
        let names = Names::new(&all);
        for name in [Some("a.example"), None] {
            let chosen = names.choose(name, &[SignatureScheme::ED25519]).unwrap();
            assert!(Arc::ptr_eq(&chosen, &all[1].key));
            let chosen = names.choose(name, &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]);
            assert!(Arc::ptr_eq(&chosen.unwrap(), &all[0].key));
        }
    }
}
