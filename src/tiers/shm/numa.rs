//! NUMA: which node a device is near, and memory that is to lie on a node.
//!
//! What the kernel does not say is not known, and nothing is refused for it. Never moves a page that
//! is there already, and never binds threads.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::SharedMemory;

/// A NUMA node, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumaNode(pub u32);

/// What an operator says of where memory is to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumaChoice {
    /// Near the GPU.
    #[default]
    Auto,
    /// Wherever the kernel puts it.
    Off,
    Node(NumaNode),
}

impl NumaChoice {
    /// What `auto`, `off` or a number says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "auto" => Some(Self::Auto),
            "off" => Some(Self::Off),
            number => {
                let plain = number.bytes().all(|byte| byte.is_ascii_digit());
                number.parse().ok().filter(|_| plain).map(|node| Self::Node(NumaNode(node)))
            }
        }
    }
}

/// The machine's nodes, as `/sys` tells of them.
#[derive(Clone, Debug)]
pub struct Nodes {
    sys: PathBuf,
}

impl Nodes {
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::under("/sys")
    }

    /// The same of a folder that is laid out as `/sys` is.
    #[must_use]
    pub fn under(sys: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into() }
    }

    /// All that are there; none where the kernel knows no nodes.
    #[must_use]
    pub fn online(&self) -> Vec<NumaNode> {
        let text = self.read("devices/system/node/online").unwrap_or_default();
        numbers(&text).into_iter().map(NumaNode).collect()
    }

    /// The node that a PCI device is attached to, by its address (`0000:3b:00.0`); nothing where the
    /// kernel does not know it.
    #[must_use]
    pub fn of_pci(&self, address: &str) -> Option<NumaNode> {
        // A path of the caller's making would lead elsewhere.
        let plain = address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
        let file = format!("bus/pci/devices/{}/numa_node", address.to_ascii_lowercase());
        let text = self.read(&file).filter(|_| plain && !address.contains(".."))?;
        // It says -1 where it does not know.
        text.trim().parse().ok().map(NumaNode)
    }

    /// Free huge pages of this length on a node, in bytes.
    #[must_use]
    pub fn huge_free_bytes(&self, node: NumaNode, huge_page_bytes: u64) -> Option<u64> {
        let (node, kib) = (node.0, huge_page_bytes >> 10);
        let folder = format!("devices/system/node/node{node}/hugepages/hugepages-{kib}kB");
        let pages: u64 = self.read(&format!("{folder}/free_hugepages"))?.trim().parse().ok()?;
        Some(pages * huge_page_bytes)
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.sys.join(file)).ok()
    }
}

/// The numbers of a list such as `0-1,3`; what is none is left out.
fn numbers(list: &str) -> Vec<u32> {
    let read = |text: &str| text.trim().parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => Some(read(from)?..=read(to)?.min(NODES_MAX)),
        None => read(part).map(|one| one..=one),
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// More nodes than any kernel is built for.
const NODES_MAX: u32 = 1023;

/// Asks the kernel to take the memory's pages from this node, or from others where it has none left.
/// To be called before they are touched.
pub(super) fn prefer(memory: &SharedMemory, node: NumaNode) -> io::Result<()> {
    const BITS: u32 = libc::c_ulong::BITS;
    if node.0 > NODES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such NUMA node"));
    }
    let mut mask = [0; (NODES_MAX as usize + 1) / BITS as usize];
    mask[(node.0 / BITS) as usize] = (1 as libc::c_ulong) << (node.0 % BITS);
    // The kernel counts one bit less than it is told.
    let bits = libc::c_ulong::from(NODES_MAX) + 2;
    let (base, len) = (memory.map.base(), memory.map.len());
    let (how, flags) = (libc::c_long::from(libc::MPOL_PREFERRED), 0 as libc::c_ulong);
    // SAFETY: the mapping lives as long as `memory`; the mask has `bits - 1` bits, which the call
    // reads. The policy changes no byte of the memory.
    let refused =
        unsafe { libc::syscall(libc::SYS_mbind, base, len, how, mask.as_ptr(), bits, flags) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as `/sys` of a machine with nodes 0, 1 and 3, and two GPUs.
    fn sys() -> (tempfile::TempDir, Nodes) {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("devices/system/node/online", "0-1,3\n");
        let huge = "devices/system/node/node1/hugepages/hugepages-2048kB";
        file(&format!("{huge}/free_hugepages"), "512\n");
        file("bus/pci/devices/0000:3b:00.0/numa_node", "1\n");
        file("bus/pci/devices/0000:af:00.0/numa_node", "-1\n");
        let nodes = Nodes::under(folder.path());
        (folder, nodes)
    }

    #[test]
    fn choices_are_read() {
        let node = |number| Some(NumaChoice::Node(NumaNode(number)));
        let auto = Some(NumaChoice::Auto);
        for (text, wanted) in
            [("auto", auto), (" off", Some(NumaChoice::Off)), ("1", node(1)), ("+1", None)]
        {
            assert_eq!(NumaChoice::parse(text), wanted, "{text:?}");
        }
        assert_eq!([NumaChoice::parse(""), NumaChoice::parse("node0")], [None, None]);
    }

    #[test]
    fn nodes_are_read_as_the_kernel_writes_them() {
        let (_folder, nodes) = sys();
        assert_eq!(nodes.online(), [0, 1, 3].map(NumaNode));
        assert_eq!(nodes.of_pci("0000:3B:00.0"), Some(NumaNode(1)));
        assert_eq!(nodes.of_pci("0000:af:00.0"), None, "the kernel does not know it");
        assert_eq!(nodes.of_pci("0000:00:00.0"), None);
        assert_eq!(nodes.of_pci("../../devices"), None);
        assert_eq!(nodes.huge_free_bytes(NumaNode(1), 2 << 20), Some(1 << 30));
        assert_eq!(nodes.huge_free_bytes(NumaNode(0), 2 << 20), None);
        assert_eq!(Nodes::under("/nowhere").online(), []);
        assert_eq!(numbers("0-4294967295").len(), 1024);
        assert_eq!(numbers("x,2-,-1,7"), [7]);
    }

    /// `MPOL_F_ADDR` of linux/mempolicy.h.
    const POLICY_OF_ADDRESS: libc::c_ulong = 2;

    /// The policy that the kernel keeps for the memory: how, and which of the first nodes.
    fn policy_of(memory: &SharedMemory) -> (i32, libc::c_ulong) {
        let (mut how, mut mask) = (0, [0 as libc::c_ulong; 16]);
        // SAFETY: both are written by the call, the mask of 1024 bits; the address is mapped.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut how,
                mask.as_mut_ptr(),
                1025 as libc::c_ulong,
                memory.base(),
                POLICY_OF_ADDRESS,
            )
        };
        assert_eq!(failed, 0, "{}", io::Error::last_os_error());
        (how, mask[0])
    }

    #[test]
    fn the_kernel_keeps_what_was_preferred() {
        let memory = SharedMemory::create("bound", 1 << 20).unwrap();
        match prefer(&memory, NumaNode(0)) {
            Ok(()) => assert_eq!(policy_of(&memory), (libc::MPOL_PREFERRED, 1)),
            // Containers may forbid the call.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}"),
        }
        assert!(prefer(&memory, NumaNode(1023)).is_err(), "no machine here has that node");
        assert!(prefer(&memory, NumaNode(5000)).is_err());
    }
}
