//! The least that a server can be: objects in memory, no signatures, no checks. What is slow beside it
//! is the client's.

use std::collections::BTreeMap;
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
        } else {
            let object = Arc::clone(&objects.lock().unwrap()[&path]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", object.len());
            socket.write_all(head.as_bytes()).await?;
            socket.write_all(&object).await?;
        }
    }
}

fn length_of(head: &str) -> usize {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    line.unwrap().parse().unwrap()
}
