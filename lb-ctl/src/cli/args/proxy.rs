//! Arguments of `lbctl vip add` that have meaning on layer 7 alone. What they cannot say `lbctl vip set` can.

use clap::Args;

use crate::model::command::ProxySpec;

/// Part of `lbctl vip add`.
#[derive(Args, Debug)]
#[command(next_help_heading = "Layer 7")]
pub struct ProxyArgs {
    /// Port that TLS ends at
    #[arg(long, value_name = "PORT", requires = "cert", value_parser = clap::value_parser!(u16).range(1..))]
    pub tls_port: Option<u16>,
    /// Certificates for clients by their names in `[pki]`, separated by commas; the first is for clients that name no host
    #[arg(long, value_name = "NAME", requires = "tls_port")]
    pub cert: Option<String>,
    /// Let in clients with a certificate of this family in `[pki]` alone, and none without TLS
    #[arg(long, value_name = "FAMILY", requires = "tls_port")]
    pub client_ca: Option<String>,
    /// Speak TLS to the servers, and verify them by this family in `[pki]`, or `system`, or `off`
    #[arg(long, value_name = "FAMILY|system|off")]
    pub backend_verify: Option<String>,
    /// Send clients without TLS to TLS with this status (with mode l7-http)
    #[arg(long, value_name = "STATUS", requires = "tls_port", value_parser = clap::value_parser!(u16).range(301..=308))]
    pub https_redirect: Option<u16>,
}

impl ProxyArgs {
    /// As it goes to the daemon.
    #[must_use]
    pub fn spec(&self) -> ProxySpec {
        ProxySpec {
            tls_port: self.tls_port,
            cert: self.cert.clone(),
            client_ca: self.client_ca.clone(),
            backend_verify: self.backend_verify.clone(),
            https_redirect: self.https_redirect,
        }
    }
}
