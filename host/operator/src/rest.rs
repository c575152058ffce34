//! Counts and times the calls to the Kubernetes API: a layer around the client's
//! service. Must not know what is called for.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::client::Body;
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::metrics::Metrics;

/// Puts [`Counted`] around a service.
#[derive(Clone)]
pub struct CountCalls(Metrics);

impl CountCalls {
    /// Counts in these metrics.
    pub fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A service whose calls are counted. kube's own repetitions after a 429 or a
/// 503 are within: they count as one.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, B> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.method().as_str().to_owned();
        let watching = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        let span = tracing::debug_span!(
            "kubernetes",
            otel.name = %format_args!("{method} {}", request.uri().path()),
            otel.kind = "client",
            http.request.method = method,
            url.path = request.uri().path(),
            http.response.status_code = tracing::field::Empty,
        );
        let call = Call { metrics: self.metrics.clone(), method, watching, began: Instant::now(), code: None };
        let answer = self.inner.call(request);
        let seen = span.clone();
        async move {
            let answer = answer.await;
            let code = answer.as_ref().ok().map(|response| response.status().as_u16());
            seen.record("http.response.status_code", code);
            call.end(code);
            answer
        }
        .instrument(span)
        .boxed()
    }
}

/// A call under way. It counts however it ends: whoever made it may have given
/// it up after a while, which drops it.
struct Call {
    metrics: Metrics,
    method: String,
    watching: bool,
    began: Instant,
    code: Option<u16>,
}

impl Call {
    fn end(mut self, code: Option<u16>) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.kubernetes_call(&self.method, self.code, self.watching, self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::ServiceExt as _;

    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn calls_count_whether_they_are_answered_or_given_up() {
        let metrics = Metrics::new(Clock::starting_at(Duration::ZERO));
        let service =
            CountCalls::new(metrics.clone()).layer(tower::service_fn(async |request: http::Request<Body>| {
                if request.uri().path() == "/silent" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(http::Response::builder().status(409).body(()).unwrap())
            }));
        let call = |path: &str| service.clone().oneshot(http::Request::put(path).body(Body::empty()).unwrap());
        call("/leases").await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), call("/silent")).await.unwrap_err();
        let text = metrics.encode();
        assert!(text.contains(r#"rest_client_requests_total{code="409",method="PUT"} 1"#), "{text}");
        assert!(text.contains(r#"rest_client_requests_total{code="<error>",method="PUT"} 1"#), "{text}");
        assert!(text.contains(r#"rest_client_request_duration_seconds_sum{verb="PUT"} 5.0"#), "{text}");
    }
}
