//! The least that a server can be: objects in memory, no signatures, no checks. What is slow beside it
//! is the client's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use terrace::env;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

type Objects = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

pub struct Memory {
    _runtime: Runtime,
    pub port: u16,
}

impl Memory {
    pub fn start() -> Self {
        let runtime = super::s3::runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (handle, objects) = (runtime.handle().clone(), Objects::default());
        env::spawn_task_on(runtime.handle(), async move {
            while let Ok((socket, _)) = listener.accept().await {
                let objects = Arc::clone(&objects);
                env::spawn_task_on(&handle, async move {
                    // A client that goes away is its own business.
                    let _ = serve(socket, &objects).await;
                });
            }
        });
        Self { _runtime: runtime, port }
    }
}

async fn serve(mut socket: TcpStream, objects: &Objects) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut got = Vec::new();
    loop {
        let end = loop {
            match got.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if socket.read_buf(&mut got).await? == 0 => return Ok(()),
                None => {}
            }
        };
        let head = String::from_utf8_lossy(&got[..end]).into_owned();
        got.drain(..end);
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let path = target.split('?').next().unwrap().to_owned();
        if method == "PUT" {
            let bytes = length_of(&head);
            let mut body = std::mem::take(&mut got);
            body.reserve_exact(bytes - body.len());
            while body.len() < bytes {
                socket.read_buf(&mut body).await?;
            }
            objects.lock().unwrap().insert(path, Arc::new(body));
            socket
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\netag: \"e\"\r\n\r\n")
                .await?;
        } else if target.contains("list-type=2") {
            let listed = list(&objects.lock().unwrap(), target);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", listed.len());
            socket.write_all(head.as_bytes()).await?;
            socket.write_all(listed.as_bytes()).await?;
        } else {
            let object = Arc::clone(&objects.lock().unwrap()[&path]);
            let (head, part) = answer(&head, &object);
            socket.write_all(&head).await?;
            socket.write_all(&object[part]).await?;
        }
    }
}

/// The head of the answer, and what of the object follows it.
fn answer(head: &str, object: &[u8]) -> (Vec<u8>, Range<usize>) {
    let all = object.len();
    let Some(asked) = header(head, "range") else {
        return (format!("HTTP/1.1 200 OK\r\ncontent-length: {all}\r\n\r\n").into_bytes(), 0..all);
    };
    // `bytes=0-4095`.
    let (first, last) = asked.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let part = first.parse().unwrap()..(last.parse::<usize>().unwrap() + 1).min(all);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {}-{}/{all}\r\n\r\n",
        part.len(),
        part.start,
        part.end - 1,
    );
    (head.into_bytes(), part)
}

fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case(wanted).then_some(value)
    })
}

fn length_of(head: &str) -> usize {
    header(head, "content-length").unwrap().parse().unwrap()
}

/// What lies directly below the prefix, behind `start-after`; all on one page.
fn list(objects: &BTreeMap<String, Arc<Vec<u8>>>, target: &str) -> String {
    let (bucket, query) = target.split_once('?').unwrap();
    let asked = |wanted: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(name, _)| *name == wanted).map_or("", |pair| pair.1);
        value.replace("%2F", "/")
    };
    let (prefix, after) = (asked("prefix"), asked("start-after"));
    let root = format!("{}/", bucket.trim_end_matches('/'));
    let (mut files, mut folders) = (Vec::new(), BTreeSet::new());
    for name in objects.keys().filter_map(|path| path.strip_prefix(&root)) {
        match name.strip_prefix(&prefix).map(|rest| rest.split_once('/')) {
            Some(Some((folder, _))) => drop(folders.insert(format!("{prefix}{folder}/"))),
            Some(None) if *name > *after => {
                files.push(format!("<Contents><Key>{name}</Key></Contents>"));
            }
            _ => {}
        }
    }
    let folders = folders.iter().fold(String::new(), |all, name| {
        all + &format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
    });
    format!("<ListBucketResult>{}{folders}</ListBucketResult>", files.concat())
}
