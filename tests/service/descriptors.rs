//! The descriptor socket: what is let through, and what is closed.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use terrace::wire::fd_message::{FdKind, FdReply, FdRequest, FdStatus, MESSAGE_BYTES};
use terrace::wire::pb::terrace_client::TerraceClient;
use terrace::wire::{PROTOCOL_VERSION, Token, fd_socket, fd_socket_path, pb};
use tokio::net::UnixStream;
use tonic::transport::Channel;

use super::{World, namespace};

/// The other end of a session made by hand; it ends when this is dropped.
pub struct Line(pub Token, UnixStream);

pub fn hello_message(client_id: &str) -> pb::HelloRequest {
    let namespace = namespace();
    pb::HelloRequest {
        protocol_version: PROTOCOL_VERSION,
        client_id: client_id.into(),
        client_name: "by hand".into(),
        namespace: Some(pb::Namespace {
            model: namespace.model,
            layers: namespace.shape.layers,
            planes: namespace.shape.planes,
            page_bytes: namespace.shape.page_bytes,
            block_tokens: namespace.block_tokens,
            shard_count: namespace.shard_count,
            hash_bytes: namespace.hash_bytes,
            ..pb::Namespace::default()
        }),
        engine: String::new(),
        prefill_tokens_per_s: None,
    }
}

async fn hello(world: &World, client_id: &str) -> (TerraceClient<Channel>, Token) {
    let mut raw = world.raw().await;
    let answer = raw.hello(hello_message(client_id)).await.unwrap().into_inner();
    (raw, answer.token[..].try_into().unwrap())
}

pub async fn attached_raw(world: &World, client_id: &str) -> (TerraceClient<Channel>, Line) {
    let (raw, token) = hello(world, client_id).await;
    let line = Line(token, connect(world).await);
    assert_eq!(line.exchange(FdKind::Attach, token, 0, &[]).await, FdStatus::Ok);
    (raw, line)
}

async fn connect(world: &World) -> UnixStream {
    UnixStream::connect(fd_socket_path(&world.socket)).await.unwrap()
}

impl Line {
    pub fn stream(&self) -> &UnixStream {
        &self.1
    }

    /// Sends a message with these descriptors on it, and reads the answer.
    pub async fn exchange(&self, kind: FdKind, token: Token, tag: u64, files: &[File]) -> FdStatus {
        let message = FdRequest { kind, token, tag }.encode();
        match files {
            [] => fd_socket::send(&self.1, &message, None).await.unwrap(),
            [file] => fd_socket::send(&self.1, &message, Some(file.as_fd())).await.unwrap(),
            // Two on one message: each half of it brings one.
            [first, second, ..] => {
                send_part(&self.1, &message[..16], first);
                send_part(&self.1, &message[16..], second);
            }
        }
        self.status().await
    }

    async fn status(&self) -> FdStatus {
        let received = fd_socket::receive(&self.1).await.unwrap().expect("an answer");
        FdReply::decode(&received.message).unwrap().status
    }

    /// The daemon closed its end.
    async fn is_closed(&self) -> bool {
        let end = tokio::time::timeout(Duration::from_secs(1), fd_socket::receive(&self.1)).await;
        matches!(end, Ok(Ok(None) | Err(_)))
    }
}

fn send_part(stream: &UnixStream, bytes: &[u8], file: &File) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [std::io::IoSlice::new(bytes)];
    sendmsg(stream, &bytes, &mut control, SendFlags::empty()).unwrap();
}

/// A nameless file in the world's folder.
fn file(world: &World) -> File {
    tempfile::tempfile_in(world.folder.path()).unwrap()
}

/// Descriptors of this process, daemon included, that lead to nameless files of this world.
fn open_files(world: &World) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(world.folder.path()))
        .filter(|target| target.to_string_lossy().ends_with("(deleted)"))
        .count()
}

#[tokio::test]
async fn a_first_message_that_is_not_attach_closes_the_connection() {
    let world = World::start();
    let (_raw, token) = hello(&world, "a").await;
    let cases = [
        (FdKind::Pool, token, vec![file(&world)], FdStatus::NotAttached),
        (FdKind::Arena, token, vec![], FdStatus::NotAttached),
        (FdKind::Attach, [9; 16], vec![], FdStatus::UnknownToken),
        (FdKind::Attach, token, vec![file(&world)], FdStatus::Malformed),
    ];
    for (kind, token, files, expected) in cases {
        let line = Line(token, connect(&world).await);
        assert_eq!(line.exchange(kind, token, 0, &files).await, expected, "{kind:?}");
        assert!(line.is_closed().await, "{kind:?}");
    }
    let line = Line(token, connect(&world).await);
    line.1.try_write(&[0xEE; MESSAGE_BYTES]).unwrap();
    assert_eq!(line.status().await, FdStatus::Malformed);
    assert!(line.is_closed().await);
    assert!(world.fake.state().gone.is_empty(), "strangers do not end a session");

    let line = Line(token, connect(&world).await);
    assert_eq!(line.exchange(FdKind::Attach, token, 0, &[]).await, FdStatus::Ok);
    let second = Line(token, connect(&world).await);
    let status = second.exchange(FdKind::Attach, token, 0, &[]).await;
    assert_eq!(status, FdStatus::AlreadyAttached);
    assert!(second.is_closed().await && world.fake.state().gone.is_empty());
}

#[tokio::test]
async fn an_attached_connection_that_misbehaves_ends_its_session() {
    let world = World::start();
    let cases: [(&str, FdKind, bool, usize, FdStatus); 5] = [
        ("pool without memory", FdKind::Pool, true, 0, FdStatus::Malformed),
        ("pool with two", FdKind::Pool, true, 2, FdStatus::Malformed),
        ("arena with memory", FdKind::Arena, true, 1, FdStatus::Malformed),
        ("another's token", FdKind::Arena, false, 0, FdStatus::NotAttached),
        ("attach again", FdKind::Attach, true, 0, FdStatus::AlreadyAttached),
    ];
    for (ended, (name, kind, own_token, files, expected)) in cases.into_iter().enumerate() {
        let (_raw, line) = attached_raw(&world, name).await;
        let token = if own_token { line.0 } else { [1; 16] };
        let files: Vec<File> = (0..files).map(|_| file(&world)).collect();
        assert_eq!(line.exchange(kind, token, 0, &files).await, expected, "{name}");
        assert!(line.is_closed().await, "{name}");
        assert!(world.fake.becomes(|state| state.gone.len() == ended + 1).await, "{name}");
        drop(files);
    }
    assert_eq!(open_files(&world), 0, "descriptors that should not have come are closed");
}

#[tokio::test]
async fn waiting_descriptors_are_bounded_and_close_with_the_session() {
    let world = World::with(|config| config.limits.pending_fds_max = 3);
    let (_raw, line) = attached_raw(&world, "a").await;
    for tag in 0..3 {
        assert_eq!(line.exchange(FdKind::Pool, line.0, tag, &[file(&world)]).await, FdStatus::Ok);
    }
    let again = line.exchange(FdKind::Pool, line.0, 1, &[file(&world)]).await;
    assert_eq!(again, FdStatus::TagInUse);
    let more = line.exchange(FdKind::Pool, line.0, 9, &[file(&world)]).await;
    assert_eq!(more, FdStatus::TooManyPending);
    assert_eq!(open_files(&world), 3);
    drop(line);
    assert!(world.fake.becomes(|state| state.gone.len() == 1).await);
    assert_eq!(open_files(&world), 0);
}

#[tokio::test]
async fn no_arena_is_an_answer_not_an_end() {
    let world = World::start();
    world.fake.state().no_arena = true;
    let (_raw, line) = attached_raw(&world, "a").await;
    let status = line.exchange(FdKind::Arena, line.0, 0, &[]).await;
    assert_eq!(status, FdStatus::NoArena);
    world.fake.state().no_arena = false;
    assert_eq!(line.exchange(FdKind::Arena, line.0, 0, &[]).await, FdStatus::Ok);
}

#[tokio::test]
async fn memory_on_a_gpu_that_is_refused_takes_no_tag_with_it() {
    let world = World::start();
    let (mut raw, line) = attached_raw(&world, "a").await;
    let shared = file(&world);
    shared.set_len(1 << 20).unwrap();
    assert_eq!(line.exchange(FdKind::Pool, line.0, 0, &[shared]).await, FdStatus::Ok);
    let layout = pb::PoolLayout { slots: 1, slot_stride_bytes: 4096, ..pb::PoolLayout::default() };
    let good = pb::RegisterPoolRequest {
        token: line.0.to_vec().into(),
        layout: Some(layout),
        ..Default::default()
    };
    let wrong =
        pb::RegisterPoolRequest { shard: 9, cuda: Some(pb::CudaMemory::default()), ..good.clone() };
    let error = raw.register_pool(wrong).await.unwrap_err();
    assert!(error.message().contains("shard is 9"), "{}", error.message());
    raw.register_pool(good).await.unwrap();
}
