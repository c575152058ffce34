//! Carries one HTTP request to a server and its answer back. It knows no protocol
//! above and no session, so that a simulator can stand in for it in-process.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// How long a TCP and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead peer is noticed under the long poll, which is otherwise silent.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Shorter than servers and load balancers keep an idle connection, so that a
/// write does not go out on one that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// The largest answer that is read, where a request says nothing of it
/// ([`AtMost`]). vCenter pages its answers far below this.
const MAX_ANSWER: usize = 256 << 20;

/// An extension of a request: no more of its answer is read than this many bytes
/// and one, so that whoever asked sees that it is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtMost(pub usize);

/// Why there can be no transport.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SetupError {
    /// The file of certificate authorities cannot be used.
    #[error("CA file {}: {problem}", path.display())]
    Ca {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No TLS in this process.
    #[error("no TLS")]
    Tls(#[source] rustls::Error),
    /// No HTTP client.
    #[error("no HTTP client")]
    Client(#[source] Arc<reqwest::Error>),
}

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
    pub fn new(tls: &Tls) -> Result<Self, SetupError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(tls)?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(TCP_KEEPALIVE)
            .tcp_nodelay(true)
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|error| SetupError::Client(Arc::new(error)))?;
        Ok(Self { client })
    }
}

impl Transport for HttpTransport {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Bytes>, TransportError>> {
        let client = self.client.clone();
        let at_most = request.extensions().get().copied();
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
                if let Some(AtMost(most)) = at_most
                    && body.len() + chunk.len() > most
                {
                    // The rest is nobody's concern, and the connection with it.
                    body.extend_from_slice(&chunk[..(most + 1 - body.len()).min(chunk.len())]);
                    break;
                }
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

fn tls_config(tls: &Tls) -> Result<rustls::ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?;
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

fn roots_from(path: &Path) -> Result<rustls::RootCertStore, SetupError> {
    let fail = |problem| SetupError::Ca { path: path.to_owned(), problem };
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

#[cfg(test)]
mod tests {
    use super::*;

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
