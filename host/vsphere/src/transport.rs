//! Carries one HTTP request to vCenter and its answer back. It knows no SOAP
//! and no session, so that a simulator can stand in for it in-process.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::error::Error;

/// How long a TCP and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead peer is noticed under the long poll, which is otherwise silent.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Shorter than servers and load balancers keep an idle connection, so that a
/// write does not go out on one that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// The largest answer that is read. vCenter pages its answers far below this.
const MAX_ANSWER: usize = 256 << 20;

/// One HTTP exchange. An implementation need not bound its time: the caller
/// drops the future when the call's deadline passes.
pub trait Transport: Send + Sync + 'static {
    /// Sends the request and collects the whole answer.
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>>;
}

/// Why an HTTP exchange gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .kind.as_str())]
pub struct TransportError {
    /// What is known about the request.
    pub kind: TransportKind,
    /// The cause.
    #[source]
    pub source: Arc<dyn StdError + Send + Sync>,
}

impl TransportError {
    /// Makes one from any cause.
    pub fn new(kind: TransportKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, source: Arc::from(source.into()) }
    }
}

/// What is known about a request that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransportKind {
    /// No connection: surely not sent.
    Connect,
    /// No trust in the server's certificate, or no TLS at all: surely not sent.
    Tls,
    /// No answer in time: outcome unknown.
    Timeout,
    /// The connection broke after sending began: outcome unknown.
    Broken,
}

impl TransportKind {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "cannot connect",
            Self::Tls => "the server's certificate is not trusted",
            Self::Timeout => "no answer in time",
            Self::Broken => "the connection broke",
        }
    }
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// The system's certificate authorities.
    System,
    /// The certificate authorities in this PEM file, and no others.
    CaFile(PathBuf),
    /// Anybody. For tests: whoever sits on the wire reads the password.
    Insecure,
}

/// The transport over the network: HTTP/1.1, rustls with ring, no redirects.
#[derive(Debug, Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
}

impl HttpTransport {
    /// Prepares a client; connects to nothing yet.
    pub fn new(tls: &Tls) -> Result<Self, Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(tls)?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(TCP_KEEPALIVE)
            .tcp_nodelay(true)
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|error| Error::Config(format!("no HTTP client: {}", chain(&error))))?;
        Ok(Self { client })
    }
}

impl Transport for HttpTransport {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let client = self.client.clone();
        async move {
            let request = reqwest::Request::try_from(request)
                .map_err(|error| TransportError::new(TransportKind::Connect, error))?;
            let mut response = client.execute(request).await.map_err(classify)?;
            let mut head = http::Response::builder().status(response.status());
            if let Some(headers) = head.headers_mut() {
                *headers = std::mem::take(response.headers_mut());
            }
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(classify)? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err(TransportError::new(
                        TransportKind::Broken,
                        format!("the answer is larger than {MAX_ANSWER} bytes"),
                    ));
                }
                body.extend_from_slice(&chunk);
            }
            head.body(body.freeze()).map_err(|error| TransportError::new(TransportKind::Broken, error))
        }
        .boxed()
    }
}

/// Splits by error type along the chain of causes, never by text.
fn classify(error: reqwest::Error) -> TransportError {
    let kind = if error.is_connect() || error.is_builder() {
        if caused_by_tls(&error) { TransportKind::Tls } else { TransportKind::Connect }
    } else if error.is_timeout() {
        TransportKind::Timeout
    } else {
        TransportKind::Broken
    };
    // The URL is in our configuration already, and may grow secrets one day.
    TransportError::new(kind, error.without_url())
}

fn caused_by_tls(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An `io::Error`'s `source` skips the very error that it wraps.
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && caused_by_tls(inner)
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn tls_config(tls: &Tls) -> Result<rustls::ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("no TLS: {error}")))?;
    Ok(match tls {
        Tls::System => {
            let mut roots = rustls::RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            // An empty store is legal: the handshake then says whom it cannot trust.
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Tls::CaFile(path) => builder.with_root_certificates(roots_from(path)?).with_no_client_auth(),
        Tls::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust_anybody::Verifier(provider)))
            .with_no_client_auth(),
    })
}

fn roots_from(path: &Path) -> Result<rustls::RootCertStore, Error> {
    let fail = |detail: String| Error::Config(format!("CA file {}: {detail}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fail("it holds no PEM certificate".to_owned()));
    }
    Ok(roots)
}

/// The verifier behind [`Tls::Insecure`].
mod trust_anybody {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Verifier(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for Verifier {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

/// Makes the full SDK address of what people write for a vCenter: `vc.example`,
/// `vc:8989`, `https://vc/sdk`, `http://127.0.0.1:1/sdk`. The scheme defaults
/// to https and the path to `/sdk`. User and password do not belong in it.
pub fn endpoint(host: &str) -> Result<http::Uri, Error> {
    let host = host.trim();
    let fail = |why: &str| {
        Error::Config(format!(
            "the vCenter address cannot be used: {why}; write it as vc.example or https://vc.example:443/sdk"
        ))
    };
    if host.is_empty() {
        return Err(fail("it is empty"));
    }
    // Said before the text is put into any message.
    if host.contains('@') {
        return Err(fail("user and password do not belong in it"));
    }
    let with_scheme = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    let uri: http::Uri = with_scheme.parse().map_err(|_| fail(&format!("{host:?} is not a host, host:port or URL")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(fail("its scheme is neither https nor http"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(fail(&format!("{host:?} names no host")));
    }
    if uri.query().is_some() {
        return Err(fail("a query does not belong in it"));
    }
    let path = uri.path().trim_end_matches('/');
    let path = if path.is_empty() { "/sdk" } else { path };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| fail("its path is not legal"))?);
    http::Uri::from_parts(parts).map_err(|_| fail("it is not a URL"))
}

pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_vc_host_is_understood() {
        for (host, want) in [
            ("vc.example", "https://vc.example/sdk"),
            ("vc:8989", "https://vc:8989/sdk"),
            ("10.186.34.28", "https://10.186.34.28/sdk"),
            ("[::1]:443", "https://[::1]:443/sdk"),
            ("https://vc/sdk", "https://vc/sdk"),
            ("https://vc/sdk/", "https://vc/sdk"),
            ("https://vc", "https://vc/sdk"),
            (" http://127.0.0.1:1/sdk ", "http://127.0.0.1:1/sdk"),
            ("https://proxy/vc1/sdk", "https://proxy/vc1/sdk"),
        ] {
            assert_eq!(endpoint(host).unwrap().to_string(), want, "{host}");
        }
    }

    #[test]
    fn a_bad_vc_host_is_refused_with_a_remedy() {
        for host in ["", "  ", "ftp://vc", "vc name", "https://", "vc/sdk?x=1"] {
            let message = endpoint(host).unwrap_err().to_string();
            assert!(message.contains("write it as"), "{host}: {message}");
        }
    }

    #[test]
    fn s9_a_password_in_the_address_is_refused_and_not_repeated() {
        let message = endpoint("https://admin:hunter2@vc/sdk").unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_ca_file_that_is_none_is_named() {
        let message = HttpTransport::new(&Tls::CaFile("/nowhere/ca.pem".into())).unwrap_err().to_string();
        assert!(message.contains("/nowhere/ca.pem"), "{message}");
    }

    #[tokio::test]
    async fn nobody_listens_is_a_connect_error() {
        let transport = HttpTransport::new(&Tls::Insecure).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let request = http::Request::post(format!("http://{address}/sdk")).body(Bytes::new()).unwrap();
        let error = transport.call(request).await.unwrap_err();
        assert_eq!(error.kind, TransportKind::Connect);
    }
}
