//! Why credentials were refused. The text is for the caller: it never holds any part of what was presented.

/// The reason for a refusal; a new one needs a text and a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    #[error("the token's algorithm is not allowed for its issuer")]
    Algorithm,
    #[error("the token is not for this service: its audience is another")]
    Audience,
    #[error("the token's claim {0} is missing or not what it should be")]
    Claim(&'static str),
    #[error("the token has critical header parameters that are not understood")]
    Critical,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not issued by anyone trusted here")]
    Issuer,
    #[error("the API key has expired")]
    KeyExpired,
    #[error("the API key is not known")]
    KeyUnknown,
    #[error("the API key has been revoked")]
    KeyRevoked,
    #[error("the API key is not of the form nf_<id>_<secret>")]
    KeyShape,
    #[error("the token's signing key is for another algorithm")]
    SigningKeyMismatch,
    #[error("the token's signing key is not one that its issuer has published")]
    SigningKeyUnknown,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is not a JWT of three base64url parts")]
    Shape,
    #[error("the token's signature does not verify")]
    Signature,
    #[error("the token is longer than {0} bytes")]
    TooLong(usize),
    #[error("the token's type is not that of an access token")]
    Type,
    /// Not the caller's fault: keys or the key store are out of reach.
    #[error("credentials cannot be checked at present")]
    Unavailable,
}

impl Rejection {
    /// A bounded label for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Algorithm => "algorithm",
            Self::Audience => "audience",
            Self::Claim(_) => "claim",
            Self::Critical => "critical",
            Self::Expired => "expired",
            Self::Issuer => "issuer",
            Self::KeyExpired => "key_expired",
            Self::KeyRevoked => "key_revoked",
            Self::KeyShape => "key_shape",
            Self::KeyUnknown => "key_unknown",
            Self::NotYetValid => "not_yet_valid",
            Self::Shape => "shape",
            Self::Signature => "signature",
            Self::SigningKeyMismatch => "signing_key_mismatch",
            Self::SigningKeyUnknown => "signing_key_unknown",
            Self::TooLong(_) => "too_long",
            Self::Type => "type",
            Self::Unavailable => "unavailable",
        }
    }
}
