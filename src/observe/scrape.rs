//! Answers scrapes over HTTP: a bounded number of connections at a time, one request each, briefly.
//!
//! Anybody who reaches the port may connect, so who connects and says nothing must cost nobody else
//! a descriptor or an answer. Never records: it shows what the recorder holds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::env::{self, Seldom};

/// Connections that are open at a time. Where more come, the one that is open longest gives way: a
/// scrape takes milliseconds, so that is one that says nothing.
pub const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take from its begin to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before the next try to accept, when one failed: the process may be out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What Prometheus calls its text format.
const PAGE_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PLAIN_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Listens at `address`. To be called inside the runtime.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers whoever comes, without end.
pub(super) async fn answer_all(listener: TcpListener, handle: PrometheusHandle) {
    answer_within(PATIENCE, listener, handle).await;
}

async fn answer_within(patience: Duration, listener: TcpListener, handle: PrometheusHandle) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = VecDeque::new();
    let (failures, crowds) = (Seldom::start(), Seldom::start());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(others) = failures.turn() {
                    tracing::warn!(%error, others, "the metrics endpoint can't take a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if make_way(&mut open)
            && let Some(others) = crowds.turn()
        {
            tracing::warn!(
                others,
                "{CONNECTIONS_MAX} connections to the metrics endpoint are open, the oldest is closed: \
                 find who opens so many"
            );
        }
        // The connection that gives way does so in a moment; until then its descriptor is taken.
        let place = Arc::clone(&places).acquire_owned().await.expect("the places are never closed");
        let (end, ended) = oneshot::channel();
        open.push_back(end);
        let visit = Visit { handle: handle.clone(), _place: Arc::new(place) };
        env::spawn_task(visit.answer(stream, ended, patience));
    }
}

/// Ends the oldest connection if all places are taken.
fn make_way(open: &mut VecDeque<oneshot::Sender<Infallible>>) -> bool {
    open.retain(|end| !end.is_closed());
    open.len() >= CONNECTIONS_MAX && open.pop_front().is_some()
}

/// One connection: its place is taken until all that was begun for it has ended.
#[derive(Clone)]
struct Visit {
    handle: PrometheusHandle,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Visit {
    /// Answers one request, unless the patience or the connection's time ends first.
    async fn answer(
        self,
        stream: TcpStream,
        ended: oneshot::Receiver<Infallible>,
        patience: Duration,
    ) {
        let service = service_fn(move |request| self.clone().response(request));
        let mut http = http1::Builder::new();
        let connection = http.keep_alive(false).serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // Who asks sees how it ended; nothing of it matters here.
            _ = connection => (),
            _ = ended => (),
            () = tokio::time::sleep(patience) => (),
        }
    }

    async fn response(self, request: Request<Incoming>) -> Result<Response<String>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(response);
        }
        Ok(match request.uri().path() {
            "/" | "/metrics" => self.page().await,
            "/health" => plain(StatusCode::OK, "OK"),
            _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
        })
    }

    /// All metrics. Made beside the runtime's own threads: what was measured since the last time is
    /// added up first.
    async fn page(self) -> Response<String> {
        let runtime = runtime::Handle::current();
        let Some(page) = env::spawn_blocking_on(&runtime, move || self.handle.render()).await
        else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be shown\n");
        };
        let mut response = Response::new(page);
        response.headers_mut().insert(CONTENT_TYPE, PAGE_TYPE);
        response
    }
}

fn plain(status: StatusCode, said: &str) -> Response<String> {
    let mut response = Response::new(said.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An endpoint that holds one counter, `seen`, and is as patient as that.
    fn endpoint(patience: Duration) -> SocketAddr {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || metrics::counter!("seen").increment(3));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        env::spawn_task(answer_within(patience, listener, recorder.handle()));
        address
    }

    /// The whole answer to a request, or what came of it until the connection ended.
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(stream).await
    }

    async fn rest(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it ends").unwrap();
        answer
    }

    #[tokio::test]
    async fn a_path_has_its_answer_and_a_method_too() {
        let address = endpoint(PATIENCE);
        for (line, status, body) in [
            ("GET / HTTP/1.1", "200", "seen 3\n"),
            ("GET /metrics HTTP/1.1", "200", "seen 3\n"),
            ("GET /metrics?name=seen HTTP/1.0", "200", "seen 3\n"),
            ("GET /health HTTP/1.1", "200", "OK"),
            ("GET /favicon.ico HTTP/1.1", "404", "/metrics"),
            ("POST /metrics HTTP/1.1", "405", "only GET"),
        ] {
            let answer = ask(address, &format!("{line}\r\nhost: t\r\n\r\n")).await;
            assert_eq!(answer.split(' ').nth(1), Some(status), "{line}: {answer}");
            assert!(answer.contains(body), "{line}: {answer}");
            assert_eq!(answer.contains("version=0.0.4"), body.contains("seen"), "{line}: {answer}");
        }
        let head = ask(address, "HEAD /metrics HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert!(head.contains("200") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn who_says_nothing_is_let_go_after_a_while() {
        let address = endpoint(Duration::from_millis(50));
        let silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(silent).await, "");
        // Nor does half a request count.
        assert_eq!(ask(address, "GET /metrics HTTP/1.1\r\nhost: ").await, "");
    }

    #[tokio::test]
    async fn of_many_the_oldest_gives_way_and_the_newest_is_answered() {
        // Nobody is let go for being silent for long.
        let address = endpoint(Duration::from_hours(1));
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = ask(address, "GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert!(answer.contains("seen 3"), "{answer}");
        for stream in silent.drain(..40 + 1 - CONNECTIONS_MAX) {
            assert_eq!(rest(stream).await, "");
        }
        for stream in &silent {
            let none = stream.try_read(&mut [0]).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock, "the younger ones stay");
        }
    }
}
