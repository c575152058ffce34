//! Carries one HTTP request to a server and its answer back. It knows no protocol
//! above and no session, so that a simulator can stand in for it in-process.

use std::error::Error as StdError;
use std::path::PathBuf;
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
    /// The text with certificate authorities cannot be used.
    #[error("the CA cannot be used: {0}")]
    Pem(String),
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
    /// The certificate authorities in this PEM text, and no others.
    CaPem(Arc<str>),
    /// The server whose own certificate has this SHA-256, and no other, whoever signed it
    /// and whatever name is in it.
    Thumbprint([u8; 32]),
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
        Tls::CaFile(path) => {
            let fail = |problem| SetupError::Ca { path: path.to_owned(), problem };
            let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
            builder.with_root_certificates(roots_from(&pem).map_err(fail)?).with_no_client_auth()
        }
        Tls::CaPem(pem) => {
            let roots = roots_from(pem.as_bytes()).map_err(SetupError::Pem)?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Tls::Thumbprint(thumbprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(no_authority::Verifier { provider, only: Some(*thumbprint) }))
            .with_no_client_auth(),
        Tls::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(no_authority::Verifier { provider, only: None }))
            .with_no_client_auth(),
    })
}

fn roots_from(pem: &[u8]) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no PEM certificate".to_owned());
    }
    Ok(roots)
}

/// The verifier behind [`Tls::Thumbprint`] and [`Tls::Insecure`].
mod no_authority {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
    use sha2::{Digest as _, Sha256};

    #[derive(Debug)]
    pub(super) struct Verifier {
        pub(super) provider: Arc<CryptoProvider>,
        /// The SHA-256 of the only certificate that will do; none: any will.
        pub(super) only: Option<[u8; 32]>,
    }

    #[derive(thiserror::Error)]
    #[error("the certificate's SHA-256 is {0}, which is not the thumbprint that is trusted")]
    struct Another(String);

    /// rustls shows such an error this way only.
    impl std::fmt::Debug for Another {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self}")
        }
    }

    impl ServerCertVerifier for Verifier {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            let found: [u8; 32] = Sha256::digest(end_entity).into();
            if self.only.is_none_or(|only| only == found) {
                return Ok(ServerCertVerified::assertion());
            }
            let text = found.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
            Err(CertificateError::Other(OtherError(Arc::new(Another(text)))).into())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
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

    #[test]
    fn a_thumbprint_fits_one_certificate_and_a_ca_needs_one() {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::{ServerName, UnixTime};
        use sha2::{Digest as _, Sha256};
        let certificate = CertificateDer::from(b"a certificate".to_vec());
        let verify = |only: Option<[u8; 32]>| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let (name, now) = (ServerName::try_from("vc.example").unwrap(), UnixTime::now());
            no_authority::Verifier { provider, only }.verify_server_cert(&certificate, &[], &name, &[], now)
        };
        assert!(verify(Some(Sha256::digest(b"a certificate").into())).is_ok());
        assert!(verify(None).is_ok());
        let error = verify(Some([0; 32])).unwrap_err().to_string();
        assert!(error.contains("not the thumbprint that is trusted"), "{error}");
        let none = HttpTransport::new(&Tls::CaPem("no PEM".into())).unwrap_err().to_string();
        assert!(none.contains("no PEM certificate"), "{none}");
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
