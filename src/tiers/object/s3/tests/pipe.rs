//! A connection's middle: it may stop passing bytes on, or break.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::env;

/// Passes on what comes between whoever connects and a server on this machine.
pub(super) struct Pipe {
    pub(super) port: u16,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    frozen: AtomicBool,
    /// Bytes of answers after which connections break, once; zero: never.
    breaks_after: AtomicUsize,
}

impl Pipe {
    pub(super) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        // Ends with the test's process.
        env::spawn_thread("pipe", move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
                env::spawn_thread("pipe-up", move || pass(ends, &up, false)).unwrap();
                env::spawn_thread("pipe-down", move || pass((far, near), &down, true)).unwrap();
            }
        })
        .unwrap();
        Self { port, faults }
    }

    /// From now on nothing is passed on, and no connection ends: as when a cable is pulled.
    pub(super) fn freeze(&self, frozen: bool) {
        self.faults.frozen.store(frozen, Ordering::Relaxed);
    }

    pub(super) fn break_after(&self, bytes: usize) {
        self.faults.breaks_after.store(bytes, Ordering::Relaxed);
    }
}

fn pass((mut from, mut to): (TcpStream, TcpStream), faults: &Faults, answers: bool) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        while faults.frozen.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if to.write_all(&bytes[..count]).is_err() || answers && faults.breaks(count) {
            break;
        }
    }
    // Whichever end is still there hears of it.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

impl Faults {
    fn breaks(&self, passed: usize) -> bool {
        let left = self.breaks_after.load(Ordering::Relaxed);
        self.breaks_after.store(left.saturating_sub(passed), Ordering::Relaxed);
        left > 0 && left <= passed
    }
}
