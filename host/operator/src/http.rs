//! `/livez`, `/readyz` and `/metrics`.
//!
//! Liveness is that the main loop turns; readiness is that all parts are there
//! that a pass needs. vCenter being down is neither: it is a condition of the
//! groups, and a restart would not help. Must not know what the parts are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// The health of the process. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Health(Arc<HealthInner>);

struct HealthInner {
    stall: Duration,
    state: Mutex<HealthState>,
}

struct HealthState {
    beat: Instant,
    parts: BTreeMap<&'static str, Result<(), String>>,
}

impl Health {
    /// Not ready until each of `parts` has been reported ready; not alive when
    /// the last [`Self::beat`] is longer ago than `stall`.
    pub fn new(parts: &[&'static str], stall: Duration) -> Self {
        let parts = parts.iter().map(|part| (*part, Err("not started yet".to_owned()))).collect();
        Self(Arc::new(HealthInner { stall, state: Mutex::new(HealthState { beat: Instant::now(), parts }) }))
    }

    /// The main loop has turned.
    pub fn beat(&self) {
        self.state().beat = Instant::now();
    }

    /// A part is ready, or what it lacks, in words.
    pub fn set_ready(&self, part: &'static str, state: Result<(), String>) {
        self.state().parts.insert(part, state);
    }

    /// Whether the main loop turns; if not, in words.
    pub fn live(&self) -> Result<(), String> {
        let age = self.state().beat.elapsed();
        if age <= self.0.stall {
            return Ok(());
        }
        Err(format!("the main loop has not turned for {} s (limit {} s)\n", age.as_secs(), self.0.stall.as_secs()))
    }

    /// Whether every part is ready; if not, a line for each that is not.
    pub fn ready(&self) -> Result<(), String> {
        let mut missing = String::new();
        for (part, state) in &self.state().parts {
            if let Err(lack) = state {
                let _ = writeln!(missing, "{part}: {lack}");
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The three pages as a router, for [`serve`] and for tests without a socket.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|State((health, _)): State<(Health, Metrics)>| async move { page(health.live()) }))
        .route("/readyz", get(|State((health, _)): State<(Health, Metrics)>| async move { page(health.ready()) }))
        .route(
            "/metrics",
            get(|State((_, metrics)): State<(Health, Metrics)>| async move {
                ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode())
            }),
        )
        .with_state((health, metrics))
}

/// Serves the pages until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let server = axum::serve(listener, router(health, metrics));
    tokio::select! {
        result = async { server.await } => result,
        // Nobody's scrape is worth waiting for.
        () = shutdown.cancelled() => Ok(()),
    }
}

fn page(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::clock::Clock;

    async fn get(health: &Health, path: &str) -> (StatusCode, String) {
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(health.clone(), metrics).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let health = Health::new(&["policies", "vmgroups"], Duration::from_mins(1));
        health.set_ready(
            "vmgroups",
            Err("the CustomResourceDefinition is not installed: vmgroup crd | kubectl apply -f -".to_owned()),
        );
        let (status, text) = get(&health, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("policies: not started yet\n"), "{text}");
        assert!(text.contains("vmgroups: the CustomResourceDefinition is not installed"), "{text}");
        health.set_ready("policies", Ok(()));
        health.set_ready("vmgroups", Ok(()));
        assert_eq!(get(&health, "/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
        health.set_ready("policies", Err("gone".to_owned()));
        assert_eq!(get(&health, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "policies: gone\n".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_is_the_heartbeat_and_not_readiness() {
        let health = Health::new(&["policies"], Duration::from_mins(1));
        assert_eq!(get(&health, "/livez").await.0, StatusCode::OK);
        tokio::time::advance(Duration::from_secs(61)).await;
        let (status, text) = get(&health, "/livez").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("61 s"), "{text}");
        health.beat();
        assert_eq!(get(&health, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served_until_the_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let health = Health::new(&[], Duration::from_mins(1));
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let server = tokio::spawn(serve(listener, health, metrics, shutdown.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(
            &mut stream,
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await
        .unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(CONTENT_TYPE), "{answer}");
        assert!(answer.contains("vmgroup_policy_refused 0"), "{answer}");
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
