//! A certificate authority for this machine's developers, and the leaf that the gateway shows.
//!
//! The authority is made once and kept: whoever has come to trust it goes on doing so. The leaf is made anew when it is
//! about to expire or lacks a name.

use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fs_err as fs;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_VALIDITY: Duration = DAY.saturating_mul(3650);
/// Browsers refuse leaves of more than 825 days.
const LEAF_VALIDITY: Duration = DAY.saturating_mul(365);
/// A leaf that ends before this has passed is made anew.
const LEAF_RENEWAL: Duration = DAY.saturating_mul(30);

/// Where they are.
pub(super) struct Certificates {
    pub(super) ca: PathBuf,
    pub(super) leaf: PathBuf,
    pub(super) leaf_key: PathBuf,
}

impl Certificates {
    /// Sees that `<data_dir>/tls` has an authority and a leaf for localhost, the loopback addresses and `address`.
    pub(super) fn ensure(data_dir: &Path, address: IpAddr) -> Result<Self> {
        let folder = data_dir.join("tls");
        fs::create_dir_all(&folder)?;
        let own =
            Self { ca: folder.join("ca.pem"), leaf: folder.join("leaf.pem"), leaf_key: folder.join("leaf-key.pem") };
        let names = names(address);
        let ca_key = folder.join("ca-key.pem");
        if !own.ca.exists() || !ca_key.exists() {
            make_ca(&own.ca, &ca_key).context("making the development certificate authority")?;
        }
        if !own.leaf_key.exists() || !is_good(&own.leaf, &own.ca, &names) {
            own.make_leaf(&ca_key, names).context("making the development certificate")?;
        }
        Ok(own)
    }

    fn make_leaf(&self, ca_key: &Path, names: Vec<String>) -> Result<()> {
        let ca_key = KeyPair::from_pem(&fs::read_to_string(ca_key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(&self.ca)?, ca_key)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "Nearfield development");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, LEAF_VALIDITY);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &issuer)?;
        place(&self.leaf_key, &key.serialize_pem())?;
        place(&self.leaf, &leaf.pem())
    }
}

fn names(address: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let address = address.to_string();
    if !names.contains(&address) {
        names.push(address);
    }
    names
}

fn make_ca(certificate: &Path, key_file: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Nearfield development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_VALIDITY);
    let key = KeyPair::generate()?;
    let ca = params.self_signed(&key)?;
    place(key_file, &key.serialize_pem())?;
    place(certificate, &ca.pem())
}

/// From yesterday, for clocks that are behind.
fn validity(params: &mut CertificateParams, length: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = now - DAY;
    params.not_after = now + length;
}

/// Whether the authority vouches for the leaf, under every name, now and until the renewal.
fn is_good(leaf: &Path, ca: &Path, names: &[String]) -> bool {
    let (Ok(leaf), Ok(ca)) = (CertificateDer::from_pem_file(leaf), CertificateDer::from_pem_file(ca)) else {
        return false;
    };
    let mut roots = RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(()) = roots.add(ca) else { return false };
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() else {
        return false;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    [now, now + LEAF_RENEWAL].into_iter().map(UnixTime::since_unix_epoch).all(|time| {
        names.iter().all(|name| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| verifier.verify_server_cert(&leaf, &[], &name, &[], time).is_ok())
        })
    })
}

/// Puts a whole file in place in one step, readable by its owner alone.
fn place(path: &Path, pem: &str) -> Result<()> {
    use std::io::Write;

    let draft = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    options.options_mut().mode(0o600);
    let mut file = options.open(&draft)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    Ok(fs::rename(&draft, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(certificates: &Certificates) -> (String, String) {
        let read = |path: &Path| fs::read_to_string(path).expect("it is there");
        (read(&certificates.ca), read(&certificates.leaf))
    }

    #[test]
    fn both_are_kept_while_they_serve() {
        let folder = tempfile::tempdir().expect("a folder");
        let ensure = |address: [u8; 4]| Certificates::ensure(folder.path(), address.into()).expect("certificates");
        let (ca, leaf) = read(&ensure([127, 0, 0, 1]));
        assert_eq!(read(&ensure([127, 0, 0, 1])), (ca.clone(), leaf.clone()), "nothing has changed");

        let (same_ca, wider) = read(&ensure([192, 0, 2, 1]));
        assert_eq!(same_ca, ca);
        assert_ne!(wider, leaf, "the leaf lacked the address");
        assert_eq!(read(&ensure([192, 0, 2, 1])), (ca.clone(), wider));

        fs::remove_file(folder.path().join("tls/ca-key.pem")).expect("it is there");
        let (other_ca, _) = read(&ensure([127, 0, 0, 1]));
        assert_ne!(other_ca, ca, "without its key the authority is of no use");
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().expect("a folder");
        Certificates::ensure(folder.path(), [127, 0, 0, 1].into()).expect("certificates");
        for key in ["ca-key.pem", "leaf-key.pem"] {
            let mode = fs::metadata(folder.path().join("tls").join(key)).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }
}
