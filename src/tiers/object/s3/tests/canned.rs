//! A server that gives the answer it was told to give.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Runtime;

use super::super::S3Store;
use super::server::{bucket_at, store_at};
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::object::ObjectOptions;

type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

pub(super) struct Canned {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Canned {
    /// Answers every request with what `answer` makes of its head, in lower case, and closes.
    pub(super) fn start<A: Into<Vec<u8>>>(
        answer: impl Fn(&str) -> A + Send + Sync + 'static,
    ) -> Self {
        let answer = move |head: &str| answer(head).into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, answer): (_, Arc<Answer>) = (Arc::clone(&requests), Arc::new(answer));
        // Ends with the test's process.
        env::spawn_thread("canned", move || {
            for socket in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = Arc::clone(&answer);
                env::spawn_thread("canned-one", move || serve(socket, &*answer)).unwrap();
            }
        })
        .unwrap();
        Self { port, requests }
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn store(&self, arena: &Arc<Arena>, runtime: &Runtime) -> S3Store {
        self.store_with(ObjectOptions::default(), arena, runtime)
    }

    pub(super) fn store_with(
        &self,
        options: ObjectOptions,
        arena: &Arc<Arena>,
        runtime: &Runtime,
    ) -> S3Store {
        store_at(&bucket_at(self.port, "p"), "secret", options, arena, runtime)
    }

    pub(super) fn ok() -> String {
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into()
    }

    pub(super) fn error(status: u16, code: &str) -> String {
        let body = format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>");
        format!(
            "HTTP/1.1 {status} Canned\r\ncontent-type: application/xml\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

fn serve(socket: TcpStream, answer: &Answer) {
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|bytes| bytes > 2) {}
    let head = head.to_lowercase();
    let body_bytes = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; body_bytes];
    reader.read_exact(&mut body).unwrap_or_default();
    // A client that goes away is its own business.
    let _ = reader.get_mut().write_all(&answer(&head));
}
