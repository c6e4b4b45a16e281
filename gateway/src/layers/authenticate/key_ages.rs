//! How old the issuers' keys are: those of an issuer that cannot be reached stay in use, and somebody has to know.

use nearfield_auth::Authenticator;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::current::Current;

pub(super) struct KeyAges(pub(super) Current<Authenticator>);

impl std::fmt::Debug for KeyAges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyAges")
    }
}

impl Collector for KeyAges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let authenticator = self.0.get();
        let mut ages = authenticator.key_ages().filter_map(|(issuer, age)| Some((issuer, age?))).peekable();
        // A family of nothing would be a line that says nothing.
        if ages.peek().is_none() {
            return Ok(());
        }
        let kind = ConstGauge::new(0.0).metric_type();
        let help = "time since an issuer's keys were last read well, from its file or its URL";
        let mut family = encoder.encode_descriptor("gateway_jwks_age_seconds", help, None, kind)?;
        for (issuer, age) in ages {
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&[("issuer", issuer)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn the_age_of_keys_that_were_read_is_told_by_issuer() {
        let directory = tempfile::tempdir().unwrap();
        nearfield_auth::dev::DevKey::load_or_create(directory.path()).unwrap();
        let issuers = vec![nearfield_auth::dev::issuer(directory.path())];
        let config = nearfield_auth::Config { issuers, ..nearfield_auth::Config::default() };
        let authenticator = Authenticator::start(&config).await.unwrap();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(KeyAges(Current::from(authenticator))));
        let mut told = String::new();
        prometheus_client::encoding::text::encode(&mut told, &registry).unwrap();
        let issuer = nearfield_auth::dev::ISSUER;
        assert!(told.contains(&format!("gateway_jwks_age_seconds{{issuer=\"{issuer}\"}} 0.")), "{told}");
    }
}
