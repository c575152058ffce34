//! Serves a simulator over HTTP/1.1 on a loopback port, in the clear or under
//! a certificate made on the spot.
//!
//! Must not know which simulator it serves. A [`Cut`] closes the connection
//! without an answer, as a broken network would.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt};

use crate::faults::Cut;

/// How long a client may take over its TLS handshake and its request's head.
const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate with its key, as a server shows it.
#[derive(Clone)]
pub struct TlsIdentity {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl TlsIdentity {
    /// Makes a CA and a leaf signed by it, valid for 127.0.0.1, localhost and
    /// `names`. Returns the identity and the CA's certificate in PEM.
    ///
    /// Keys come from the system's randomness: they are the one thing that the
    /// seed does not decide, and nothing in-process depends on them.
    pub fn self_signed(names: &[&str]) -> io::Result<(Self, String)> {
        let ca_key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let mut ca = rcgen::CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        ca.distinguished_name.push(rcgen::DnType::CommonName, "vmgroup-sim CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
        let ca = rcgen::CertifiedIssuer::self_signed(ca, ca_key).map_err(io::Error::other)?;

        let mut subjects = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        for name in names {
            if !subjects.iter().any(|s| s == name) {
                subjects.push((*name).to_owned());
            }
        }
        let leaf_key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let mut leaf = rcgen::CertificateParams::new(subjects).map_err(io::Error::other)?;
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "vmgroup-sim");
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = leaf.signed_by(&leaf_key, &ca).map_err(io::Error::other)?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let identity = Self::from_der(leaf.der().clone(), key)?;
        Ok((identity, ca.pem()))
    }

    /// An identity from a certificate and its key.
    pub fn from_der(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// The leaf certificate in DER, for thumbprints.
    pub fn certificate(&self) -> &[u8] {
        self.certificate.as_ref()
    }
}

/// A running server. Dropping it closes the port and every connection that has not
/// become something else than HTTP.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The connections live in the task's JoinSet and end with it.
        self.accepting.abort();
    }
}

/// Serves on a free port of 127.0.0.1.
pub async fn serve<S>(service: S, tls: Option<&TlsIdentity>) -> io::Result<Server>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Cut> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    serve_on(service, 0, tls).await
}

/// Serves on `port` of 127.0.0.1; 0 means a free one.
pub async fn serve_on<S>(service: S, port: u16, tls: Option<&TlsIdentity>) -> io::Result<Server>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Cut> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let addr = listener.local_addr()?;
    let acceptor = tls.map(|t| TlsAcceptor::from(t.config.clone()));
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, service.clone(), acceptor.clone()));
                    }
                    // Out of descriptors: others have to close theirs first.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    });
    Ok(Server { addr, accepting })
}

async fn connection<S>(stream: TcpStream, service: S, tls: Option<TlsAcceptor>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Cut> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Watch events are small and must not wait for company.
    let _ = stream.set_nodelay(true);
    let service =
        TowerToHyperService::new(service.map_request(|request: Request<hyper::body::Incoming>| request.map(Body::new)));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // Errors here are the client's going away, or a Cut: both mean "close".
    match tls {
        None => {
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            }
        }
    }
}

/// A kubeconfig for a simulated Kubernetes API in the clear at `addr`.
pub fn kubeconfig(addr: SocketAddr) -> String {
    kubeconfig_with(addr, None, None)
}

/// A kubeconfig for a simulated Kubernetes API at `addr`: over TLS if the CA's
/// certificate (PEM) is given, with a bearer token if one is required.
pub fn kubeconfig_with(addr: SocketAddr, ca_pem: Option<&str>, token: Option<&str>) -> String {
    use base64::Engine as _;
    let (scheme, ca) = match ca_pem {
        None => ("http", String::new()),
        Some(pem) => (
            "https",
            format!("\n    certificate-authority-data: {}", base64::engine::general_purpose::STANDARD.encode(pem)),
        ),
    };
    // kubectl asks for a user name if it has a server under TLS and no token.
    let token = token.or(ca_pem.map(|_| "anybody"));
    let user = token.map_or_else(|| "{}".to_owned(), |t| format!("{{ token: {t:?} }}"));
    format!(
        "apiVersion: v1
kind: Config
current-context: sim
clusters:
- name: sim
  cluster:
    server: {scheme}://{addr}{ca}
contexts:
- name: sim
  context: {{ cluster: sim, user: sim, namespace: default }}
users:
- name: sim
  user: {user}
"
    )
}
