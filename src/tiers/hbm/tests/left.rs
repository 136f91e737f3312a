//! Engines that leave while copies of their pools wait: the slots are theirs again.

use super::*;

const WAYS: [Stream; 2] = [Stream::Up, Stream::Down];
const SPAN: FrameSpan = FrameSpan { offset: 0, bytes: 20_480 };

/// Holds a stream until the other end is dropped.
fn hold(device: &HostDevice, stream: Stream) -> std::sync::mpsc::SyncSender<()> {
    let (gate, opened) = sync_channel::<()>(0);
    device.submit(stream, vec![], Box::new(move |_| opened.recv().unwrap_or_default()));
    gate
}

#[test]
fn a_copy_that_has_not_begun_when_its_engine_leaves_never_does() {
    let arena = arena();
    let device = HostDevice::new(Arc::clone(&arena), CONFIG).unwrap();
    let gates = WAYS.map(|stream| hold(&device, stream));
    let layout = || PagedLayout::page_major(SHAPE, 2);
    let [left, stays] = [engine(0, layout()), engine(0, layout())];
    for engine in [&left, &stays] {
        engine.fill(7);
    }
    let before = left.read(1);
    let (tell, told) = sync_channel(2);
    let frame = || CopyEnd::Frame(SPAN);
    for stream in WAYS {
        let copies = [left.slot(1), stays.slot(1)].map(|slot| {
            let (from, to) = if stream == Stream::Up { (frame(), slot) } else { (slot, frame()) };
            copy(geometry(SHAPE, 1), from, to)
        });
        let tell = tell.clone();
        device.submit(stream, copies.into(), Box::new(move |end| tell.send(end.failed).unwrap()));
    }
    left.pool().leave();
    drop(gates);
    for _ in WAYS {
        let failed = told.recv().unwrap();
        let [FailedCopy { copy: 0, error: StoreError::Busy }] = failed.as_slice() else {
            panic!("{failed:?}");
        };
    }
    assert_eq!(left.read(1), before, "its engine has something else there by now");
}
