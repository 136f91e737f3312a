//! On which NUMA node the DRAM arena is to lie: the GPU's, where that is known.
//!
//! Chooses from what is told; binds nothing.

use std::fmt;

use crate::tiers::hbm::cuda::GpuFacts;
use crate::tiers::shm::{Nodes, NumaChoice, NumaNode};

/// Where the arena goes, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The setting switches it off.
    Off,
    /// There is nothing to choose.
    OneNode,
    /// No device says which node is near.
    NoGpu,
    /// The kernel does not know where the GPU is.
    Unknown { gpu: String, nodes: usize },
    /// The setting names a node that is not there.
    Missing { node: NumaNode, there: Vec<NumaNode> },
    /// Near the GPU, or as the setting says.
    On { node: NumaNode, gpu: Option<String>, nodes: usize },
}

impl Placement {
    /// What the setting comes to on a machine of these nodes. The GPU that is used is looked for only where there is
    /// something to choose.
    #[must_use]
    pub fn of(
        choice: NumaChoice,
        used: impl FnOnce() -> Option<GpuFacts>,
        machine: &Nodes,
    ) -> Self {
        let there = machine.online();
        let nodes = there.len();
        match choice {
            NumaChoice::Off => return Self::Off,
            NumaChoice::Node(node) if there.contains(&node) => {
                return Self::On { node, gpu: None, nodes };
            }
            NumaChoice::Node(node) => return Self::Missing { node, there },
            NumaChoice::Auto if nodes <= 1 => return Self::OneNode,
            NumaChoice::Auto => (),
        }
        let Some(used) = used() else { return Self::NoGpu };
        let gpu = format!("cuda:{} at {}", used.ordinal, used.pci);
        match machine.of_pci(&used.pci).filter(|node| there.contains(node)) {
            Some(node) => Self::On { node, gpu: Some(gpu), nodes },
            None => Self::Unknown { gpu, nodes },
        }
    }

    /// The node, if it is one.
    #[must_use]
    pub const fn node(&self) -> Option<NumaNode> {
        match self {
            Self::On { node, .. } => Some(*node),
            _ => None,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("the arena is bound to no node: dram.numa_node is off"),
            Self::OneNode => f.write_str("one node: there is nothing to bind the arena to"),
            Self::NoGpu => f.write_str("several nodes and no GPU: the arena is bound to none"),
            Self::Unknown { gpu, nodes } => {
                write!(f, "{nodes} nodes, and the kernel does not say which is near {gpu}")
            }
            Self::Missing { node, there } => {
                let there: Vec<_> = there.iter().map(|node| node.0.to_string()).collect();
                let there = if there.is_empty() { "none".into() } else { there.join(", ") };
                write!(f, "dram.numa_node is {}, and this machine's are {there}", node.0)
            }
            Self::On { node, gpu: Some(gpu), nodes } => {
                write!(f, "node {} of {nodes}, near {gpu}: the arena is bound there", node.0)
            }
            Self::On { node, gpu: None, nodes } => {
                write!(f, "node {} of {nodes}, as dram.numa_node says", node.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tiers::hbm::DeviceChoice;

    /// A machine with so many nodes, whose second GPU is near node 1.
    fn machine(nodes: u32) -> (tempfile::TempDir, Nodes) {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str, text: String| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("devices/system/node/online", format!("0-{}\n", nodes - 1));
        file("bus/pci/devices/0000:01:00.0/numa_node", "-1\n".into());
        file("bus/pci/devices/0000:02:00.0/numa_node", "1\n".into());
        let nodes = Nodes::under(folder.path());
        (folder, nodes)
    }

    fn gpus() -> Vec<GpuFacts> {
        let gpu = |ordinal: u32| GpuFacts {
            pci: format!("0000:0{}:00.0", ordinal + 1),
            ..GpuFacts::h100(ordinal)
        };
        vec![gpu(0), gpu(1)]
    }

    #[test]
    fn the_arena_goes_where_its_gpu_is() {
        let check = |nodes, choice: &str, device: DeviceChoice, wanted: &str| {
            let (_folder, machine) = machine(nodes);
            let choice = NumaChoice::parse(choice).unwrap();
            let placed = Placement::of(choice, || device.among(&gpus()).cloned(), &machine);
            let said = format!("{:?} {placed}", placed.node().map(|node| node.0));
            assert!(said.starts_with(wanted), "{nodes} nodes, {device:?}: {said}");
        };
        let (first, second) = (DeviceChoice::Auto, DeviceChoice::Cuda(1));
        check(2, "auto", second, "Some(1) node 1 of 2, near cuda:1 at 0000:02:00.0");
        check(2, "auto", first, "None 2 nodes, and the kernel does not say which is near cuda:0");
        check(2, "auto", DeviceChoice::Host, "None several nodes and no GPU");
        check(2, "auto", DeviceChoice::Cuda(7), "None several nodes and no GPU");
        check(1, "auto", second, "None one node: there is nothing to bind");
        check(2, "off", second, "None the arena is bound to no node");
        check(2, "0", second, "Some(0) node 0 of 2, as dram.numa_node says");
        check(1, "0", first, "Some(0) node 0 of 1");
        check(2, "3", first, "None dram.numa_node is 3, and this machine's are 0, 1");
    }
}
