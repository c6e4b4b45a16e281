//! The edge by itself: real sockets, real TLS, every transport, around small innermost services.

mod support;
mod transports;
