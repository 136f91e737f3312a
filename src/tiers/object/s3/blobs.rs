//! The bucket as packs need it: see [`Blobs`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::super::blobs::{Answer, Blobs, Listed, Piece, Scatter};
use super::attempts::{ERASE, Errand, LIST, LOOK, READ};
use super::errors::failed;
use super::get::is_partial;
use super::{Requests, StoreError, Way};

/// Heads are shorter; lookups wait for them.
const HEAD_BYTES_USUAL: u64 = 1 << 20;

pub(in super::super) struct S3Blobs(pub Arc<Requests>);

impl Blobs for S3Blobs {
    fn put<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        Box::pin(async move {
            let name = self.0.full_name(name);
            self.0.guard.admit_in_turn(Way::Write).await?;
            // One that is there already is this one, whose answer was lost: no two have one name.
            self.0.put(&name, body.into(), None).await.map(drop)
        })
    }

    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let name = self.0.full_name(name);
            // A whole pack waits its turn with frames.
            let errand = if bytes > HEAD_BYTES_USUAL { READ } else { LOOK };
            self.asked(errand, || self.0.first_bytes(&name, bytes)).await
        })
    }

    fn fetch<'a>(&'a self, name: &'a str, pieces: &'a [Piece]) -> Answer<'a, ()> {
        Box::pin(async move {
            let name = self.0.full_name(name);
            self.asked(READ, || self.0.fetch_pieces(&name, pieces)).await
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: &'a str) -> Answer<'a, Vec<Listed>> {
        Box::pin(async move {
            let folder = self.0.full_name(folder);
            let (mut all, mut page) = (Vec::new(), None);
            loop {
                let once = || self.0.list_page(&folder, after, page.clone());
                let (listed, next) = self.asked(LIST, once).await?;
                all.extend(listed);
                page = next;
                if page.is_none() {
                    all.sort_unstable();
                    return Ok(all);
                }
            }
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let name = self.0.full_name(name);
            self.asked(ERASE, || self.0.erase_once(&name)).await
        })
    }
}

impl S3Blobs {
    /// As every operation of the store: not while it is out.
    async fn asked<T, F>(&self, errand: Errand, once: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.0.guard.admit_in_turn(errand.way).await?;
        self.0.attempts(errand, once).await
    }
}

impl Requests {
    async fn first_bytes(&self, name: &str, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let get = self.clients().others.get_object().bucket(&self.bucket).key(name);
        let get = get.range(format!("bytes=0-{}", bytes - 1)).send().await;
        let answer = get.map_err(|error| failed("look at", name, &error))?;
        let mut incoming = self.incoming(Way::Read, name, answer.body);
        let mut head = Vec::new();
        // A server that knows no ranges sends all of it: the rest is not waited for.
        while (head.len() as u64) < bytes
            && let Some(piece) = incoming.next().await?
        {
            head.extend_from_slice(&piece);
        }
        Ok(head)
    }

    async fn fetch_pieces(&self, name: &str, pieces: &[Piece]) -> Result<(), StoreError> {
        let mut scatter = Scatter::new(&self.arena, pieces);
        let range = scatter.range();
        let get = self.clients().others.get_object().bucket(&self.bucket).key(name);
        let get = get.range(format!("bytes={}-{}", range.start, range.end - 1)).send().await;
        let answer = get.map_err(|error| failed("read", name, &error))?;
        if !is_partial(&answer) {
            self.ranges.store(false, Ordering::Relaxed);
            scatter.starts_at(0);
        }
        let mut incoming = self.incoming(Way::Read, name, answer.body);
        while !scatter.is_done()
            && let Some(piece) = incoming.next().await?
        {
            scatter.take(&piece);
        }
        if scatter.is_done() {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!("{name} ends before the frames that it has")))
    }

    /// A page of names, and how to ask for the next one.
    async fn list_page(
        &self,
        folder: &str,
        after: &str,
        page: Option<String>,
    ) -> Result<(Vec<Listed>, Option<String>), StoreError> {
        let list = self.clients().others.list_objects_v2().bucket(&self.bucket);
        let list = list.prefix(folder).delimiter("/").set_continuation_token(page);
        let after = (!after.is_empty()).then(|| format!("{folder}{after}"));
        let list = list.set_start_after(after).send().await;
        let answer = list.map_err(|error| failed("list", folder, &error))?;
        let files = answer.contents().iter().filter_map(|object| object.key());
        let folders = answer.common_prefixes().iter().filter_map(|common| common.prefix());
        let inside = |name: &str, is_folder| {
            let name = name.strip_prefix(folder)?.trim_end_matches('/');
            (!name.is_empty()).then(|| Listed { name: name.to_owned(), is_folder })
        };
        let files = files.filter_map(|name| inside(name, false));
        let listed = files.chain(folders.filter_map(|name| inside(name, true))).collect();
        let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true));
        Ok((listed, next.map(str::to_owned)))
    }
}
