//! Chains, counts and sizes.

use super::*;

fn key(n: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..].copy_from_slice(&n.to_le_bytes());
    Key(bytes)
}

fn add(directory: &mut Directory, n: u64, parent: Option<BlockIndex>) -> BlockIndex {
    directory.insert(NewBlock {
        key: key(n),
        tail: HashTail(n),
        namespace: 0,
        parent,
        created_at: Time::ZERO,
        record: RetentionRecord::default(),
        owner: Owner::Nobody,
        tip: None,
    })
}

#[test]
fn a_row_stays_small() {
    assert!(size_of::<Block>() <= 256, "{} bytes", size_of::<Block>());
}

#[test]
fn chains_are_walked_and_unlinked() {
    let mut directory = Directory::default();
    let root = add(&mut directory, 0, None);
    let children: Vec<_> = (1..4).map(|n| add(&mut directory, n, Some(root))).collect();
    assert_eq!(directory.find_after(Some(root), key(3)), Some(children[2]));
    assert_eq!(directory.find_after(Some(root), key(1)), Some(children[0]));
    assert_eq!(directory.get(children[1]).position, 1);
    directory.remove(children[1]);
    let left: Vec<_> = directory.children(root).collect();
    assert_eq!(left, [children[2], children[0]]);
    directory.remove(children[2]);
    directory.remove(children[0]);
    assert!(!directory.get(root).has_children());
    assert_eq!(directory.find(key(2)), None);
    assert_eq!(directory.len(), 1);
}

#[test]
fn a_parent_inherits_the_later_tick_and_counts_its_children() {
    let mut directory = Directory::default();
    let root = add(&mut directory, 0, None);
    let child = add(&mut directory, 1, Some(root));
    for index in [root, child] {
        directory.apply(index, Tier::Dram, CopyEvent::FillStarted);
        directory.apply(index, Tier::Dram, CopyEvent::FillLanded);
    }
    directory.get_mut(child).copy_mut(Tier::Dram).tick = 9;
    assert_eq!(directory.get(root).copy(Tier::Dram).children, 1);
    assert_eq!(directory.get(root).copy(Tier::Nvme).children, 0);
    directory.apply(child, Tier::Dram, CopyEvent::Dropped);
    assert_eq!(directory.get(root).copy(Tier::Dram).children, 0);
    assert_eq!(directory.get(root).copy(Tier::Dram).tick, 9);
}

#[test]
#[should_panic(expected = "still in use")]
fn removing_a_parent_breaks_closure() {
    let mut directory = Directory::default();
    let root = add(&mut directory, 0, None);
    add(&mut directory, 1, Some(root));
    directory.remove(root);
}
