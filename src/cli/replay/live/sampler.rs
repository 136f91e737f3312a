//! Watches the daemon's counters, to say how fast each tier was filled while it was.
//!
//! Demotions happen on the daemon's own account, so nobody but its counters sees them.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::Client;
use crate::domain::tier::Tier;
use crate::env::{self, Stopwatch};

use super::tally::Busy;

const EVERY: Duration = Duration::from_millis(20);

pub(super) struct Sampler {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<[Busy; Tier::COUNT]>,
}

impl Sampler {
    pub(super) fn start(client: Client) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, watching: env::spawn_task(watch(client, stopped)) }
    }

    /// What came into each tier.
    pub(super) async fn stop(self) -> [Busy; Tier::COUNT] {
        // It may have stopped by itself, with the daemon.
        let _ = self.stop.send(());
        self.watching.await.unwrap_or_default()
    }
}

async fn watch(client: Client, mut stopped: oneshot::Receiver<()>) -> [Busy; Tier::COUNT] {
    let clock = Stopwatch::start();
    let mut filled = [Busy::default(); Tier::COUNT];
    let (mut before, mut bytes) = (Duration::ZERO, [0; Tier::COUNT]);
    // Whoever replays hears of a daemon that went; here it only ends the watching.
    while let Ok(status) = client.status().await {
        let now = clock.elapsed();
        for tier in Tier::ALL {
            let (last, total) = (&mut bytes[tier.index()], status.tiers[tier.index()].bytes_in);
            if total > *last {
                filled[tier.index()].add(before, now, total - *last);
                *last = total;
            }
        }
        before = now;
        let over = tokio::select! {
            _ = &mut stopped => true,
            () = sleep(EVERY) => false,
        };
        if over {
            break;
        }
    }
    filled
}
