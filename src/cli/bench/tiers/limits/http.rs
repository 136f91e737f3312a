//! A bare HTTP client: a connection a thread, one request after the other. What a bucket is held
//! against.
//!
//! Checks nothing but the status and the length of what came, and retries nothing but what a connection
//! that had been idle, which servers close, was not answered.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::bench::tiers::measure::Mover;
use crate::tiers::object::{Signed, SignedObject};

use super::crew::{Crew, Deed};

/// A server that answers no longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Objects of one length, and connections to their server.
pub struct BareHttp {
    crew: Crew,
    objects: Arc<Vec<SignedObject>>,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

/// One direction: objects put, or got.
pub struct HttpLoop<'a> {
    bare: &'a BareHttp,
    deed: Deed,
}

impl BareHttp {
    /// # Errors
    /// The machine refuses threads or memory.
    pub fn open(
        objects: Vec<SignedObject>,
        object_bytes: usize,
        threads: usize,
    ) -> io::Result<Self> {
        let (objects, idle) = (Arc::new(objects), Arc::default());
        Ok(Self { crew: Crew::start(threads, object_bytes)?, objects, idle })
    }

    pub fn writes(&self) -> HttpLoop<'_> {
        self.each(|idle, object, bytes| exchange(idle, &object.put, Some(bytes), &mut []))
    }

    pub fn reads(&self) -> HttpLoop<'_> {
        self.each(|idle, object, bytes| exchange(idle, &object.get, None, bytes))
    }

    /// Takes the objects away again.
    ///
    /// # Errors
    /// The server refused.
    pub fn clear(&self) -> Result<(), Failure> {
        let mut deletes =
            self.each(|idle, object, _| exchange(idle, &object.delete, None, &mut []));
        deletes.go(0..self.objects.len()).map(drop)
    }

    fn each(
        &self,
        deed: impl Fn(&Idle, &SignedObject, &mut [u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> HttpLoop<'_> {
        let (objects, idle) = (Arc::clone(&self.objects), Arc::clone(&self.idle));
        let deed: Deed = Arc::new(move |block, bytes| deed(&idle, &objects[block], bytes));
        HttpLoop { bare: self, deed }
    }
}

impl Mover for HttpLoop<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        self.bare.crew.run(blocks, &self.deed).map_err(|error| {
            // What a socket's patience ends with.
            let is_late = error.kind() == io::ErrorKind::WouldBlock;
            let why =
                if is_late { format!("no answer in {PATIENCE:?}") } else { error.to_string() };
            Failure::Failed(format!("the bare HTTP client beside the object store: {why}"))
        })
    }
}

/// Connections that nobody uses now.
type Idle = Mutex<Vec<TcpStream>>;

/// Sends a request and takes its answer, whose body must be as long as `into`.
fn exchange(idle: &Idle, request: &Signed, body: Option<&[u8]>, into: &mut [u8]) -> io::Result<()> {
    let (host, path) = parts_of(&request.url)?;
    let head = head_of(request, (host, path), body);
    let (mut line, answer) = asked(idle, host, &head, body.unwrap_or_default())?;
    if !(200..300).contains(&answer.status) {
        let (method, status) = (&request.method, answer.status);
        let mut said = String::from_utf8_lossy(&answer.begun).into_owned();
        if (method.as_str(), status) == ("PUT", 404) {
            said = "there is no such bucket: make it, or name another".into();
        }
        // The query is a signature, with which anybody could do the same.
        let name = path.split('?').next().unwrap_or_default();
        return Err(io::Error::other(format!("{method} {name} was answered {status}: {said}")));
    }
    if answer.length != into.len() || answer.begun.len() > into.len() {
        let (is, wanted) = (answer.length, into.len());
        return Err(io::Error::other(format!("{is} bytes came in place of {wanted}")));
    }
    let (first, rest) = into.split_at_mut(answer.begun.len());
    first.copy_from_slice(&answer.begun);
    line.read_exact(rest)?;
    if !answer.closes {
        idle.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
    Ok(())
}

/// Sends a request, and takes the head of its answer. All requests here may be made twice.
fn asked(idle: &Idle, host: &str, head: &str, body: &[u8]) -> io::Result<(TcpStream, Answer)> {
    let ask = |mut line: TcpStream| {
        line.write_all(head.as_bytes())?;
        line.write_all(body)?;
        Answer::read(&mut line).map(|answer| (line, answer))
    };
    let waiting = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    match waiting.map(ask) {
        Some(Err(error)) if is_closed(&error) => ask(connect(host)?),
        Some(answered) => answered,
        None => ask(connect(host)?),
    }
}

/// Whether the other end had closed the connection.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let line = TcpStream::connect(with_port)?;
    line.set_nodelay(true)?;
    line.set_read_timeout(Some(PATIENCE))?;
    line.set_write_timeout(Some(PATIENCE))?;
    Ok(line)
}

/// The host, and the path with its query.
fn parts_of(url: &str) -> io::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{url}` is not http://"))
    })?;
    let at = rest.find('/').unwrap_or(rest.len());
    Ok(rest.split_at(at))
}

fn head_of(request: &Signed, (host, path): (&str, &str), body: Option<&[u8]>) -> String {
    let mut head = format!("{} {path} HTTP/1.1\r\nhost: {host}\r\n", request.method);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "host") {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if let Some(body) = body {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    head
}

/// The head of an answer, and what came of its body with it.
struct Answer {
    status: u16,
    length: usize,
    closes: bool,
    begun: Vec<u8>,
}

impl Answer {
    fn read(line: &mut TcpStream) -> io::Result<Self> {
        let (mut bytes, mut more) = (Vec::new(), [0; 8192]);
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let begun = bytes.split_off(end + 4);
                return Self::parse(&String::from_utf8_lossy(&bytes), begun);
            }
            let read = line.read(&mut more)?;
            if read == 0 || bytes.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&more[..read]);
        }
    }

    fn parse(head: &str, begun: Vec<u8>) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut lines = head.lines();
        let status = lines.next().and_then(|first| first.split(' ').nth(1)?.parse().ok());
        let status: u16 = status.ok_or_else(|| wrong("this is no answer in HTTP"))?;
        let (mut length, mut closes) = (None, false);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok(),
                "connection" => closes = value.trim().eq_ignore_ascii_case("close"),
                "transfer-encoding" => return Err(wrong("answers in chunks are not read here")),
                _ => {}
            }
        }
        // An answer without a length has no body where its status says so.
        let length = length.or_else(|| (status == 204).then_some(0));
        let length = length.ok_or_else(|| wrong("an answer without its length"))?;
        Ok(Self { status, length, closes, begun })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::env::spawn_thread;

    /// A server of one connection that gives these answers, each after a whole request; gives what
    /// it was sent.
    fn serve(answers: &'static [&'static [u8]]) -> (String, crossbeam_channel::Receiver<Vec<u8>>) {
        serve_over(answers, answers.len())
    }

    /// The same, with so many answers a connection, which it closes then.
    fn serve_over(
        answers: &'static [&'static [u8]],
        of_each: usize,
    ) -> (String, crossbeam_channel::Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, told) = crossbeam_channel::bounded(answers.len());
        spawn_thread("server", move || {
            let mut line = None;
            for (number, answer) in answers.iter().enumerate() {
                if number % of_each == 0 {
                    drop(line.take());
                    line = Some(listener.accept().unwrap().0);
                }
                let line = line.as_mut().unwrap();
                let mut request = vec![0; 4096];
                let mut len = 0;
                while !is_whole(&request[..len]) {
                    len += line.read(&mut request[len..]).unwrap();
                }
                request.truncate(len);
                line.write_all(answer).unwrap();
                if (number + 1) % of_each == 0 {
                    line.shutdown(std::net::Shutdown::Both).unwrap();
                }
                tell.send(request).unwrap();
            }
        })
        .unwrap();
        (url, told)
    }

    /// A body comes after its head, maybe later.
    fn is_whole(request: &[u8]) -> bool {
        let end: &[u8] = if request.starts_with(b"PUT") { b"\r\n\r\nbody" } else { b"\r\n\r\n" };
        request.ends_with(end)
    }

    fn signed(method: &str, url: &str) -> Signed {
        let headers = vec![("x-amz-a".into(), "b".into())];
        Signed { method: method.into(), url: format!("{url}/bucket/key?sig=1"), headers }
    }

    #[test]
    fn one_connection_serves_request_after_request() {
        let answers: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ];
        let (url, told) = serve(answers);
        let idle = Idle::default();
        exchange(&idle, &signed("PUT", &url), Some(b"body"), &mut []).unwrap();
        let put = String::from_utf8(told.recv().unwrap()).unwrap();
        assert!(put.starts_with("PUT /bucket/key?sig=1 HTTP/1.1\r\nhost: 127.0.0.1:"), "{put}");
        assert!(put.contains("x-amz-a: b\r\ncontent-length: 4\r\n\r\nbody"), "{put}");
        let mut got = [0; 5];
        exchange(&idle, &signed("GET", &url), None, &mut got).unwrap();
        assert_eq!(&got, b"hello");
        exchange(&idle, &signed("DELETE", &url), None, &mut []).unwrap();
        assert_eq!(idle.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_connection_that_the_server_closed_meanwhile_is_made_anew() {
        const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let (url, told) = serve_over(&[OK, OK, OK], 1);
        let idle = Idle::default();
        for method in ["PUT", "GET", "DELETE"] {
            let body: Option<&[u8]> = (method == "PUT").then_some(b"body");
            exchange(&idle, &signed(method, &url), body, &mut []).unwrap();
            told.recv().unwrap();
        }
        assert_eq!(idle.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_told() {
        let check = |answer: &'static [&'static [u8]], wanted: &str| {
            let (url, _told) = serve(answer);
            let mut got = [0; 5];
            let ended = exchange(&Idle::default(), &signed("GET", &url), None, &mut got);
            let said = ended.unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
        };
        check(
            &[b"HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\ndenied"],
            "GET /bucket/key was answered 403: denied",
        );
        check(&[b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhel"], "3 bytes came in place of 5");
        check(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"], "in chunks");
        check(&[b"HTTP/1.1 200 OK\r\n\r\n"], "without its length");
        check(&[b"SSH-2.0\r\n\r\n"], "no answer in HTTP");
        let ended = exchange(&Idle::default(), &signed("GET", "https://x"), None, &mut []);
        assert!(ended.unwrap_err().to_string().contains("is not http://"));
    }
}
