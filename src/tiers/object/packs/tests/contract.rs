//! The contract suite over packs: every block that is short enough lies in one.

use std::fs;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ground::{Ground, options};
use crate::domain::block::Key;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::object::object_name;
use crate::tiers::object::packs::{PackOptions, PackedStore};
use crate::tiers::store::TierStore;

/// `is_listed`: what lies beside packs is found by a scan too.
fn check(ground: fn() -> Ground, is_listed: bool) {
    // One for all: most of the time went into touching fresh memory.
    let arena = contract::arena(0);
    contract::check_store(|| {
        let ground = Rc::new(ground());
        let options = PackOptions {
            linger: Duration::from_millis(1),
            freshness: Duration::from_secs(1),
            ..options(1)
        };
        let store = ground.store(&arena, options, |blobs| blobs);
        let (flipped, root) = (Arc::clone(&store), ground.root.clone());
        let flip = move |key, _, byte: usize| {
            let (name, at) = place(&flipped, key);
            let path = root.join(name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[at + byte] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        let fixture = Fixture::new(Arc::clone(&arena), store).corrupted_by(flip);
        let (again, memory) = (Rc::clone(&ground), Arc::clone(&arena));
        let restart = move |old| {
            drop(old);
            again.store(&memory, options, |blobs| blobs) as Arc<dyn TierStore>
        };
        let fixture = if is_listed { fixture.restarted_by(restart) } else { fixture };
        fixture.keeping(ground)
    });
}

/// In which object the block's frame begins, and where.
fn place(store: &PackedStore, key: Key) -> (String, usize) {
    let packed = store.packs.find(key);
    let packed = packed.map(|found| (found.pack.to_string(), usize::try_from(found.at).unwrap()));
    packed.unwrap_or_else(|| (object_name(key), 0))
}

#[test]
fn keeps_the_contract_in_a_folder() {
    check(Ground::folder, true);
}

#[test]
fn keeps_the_contract_in_a_bucket() {
    check(Ground::bucket, false);
}
