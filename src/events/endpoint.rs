//! What a ZeroMQ endpoint says. Never opens anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a ZeroMQ socket listens.
///
/// - `tcp://127.0.0.1:5557`, `tcp://[::1]:5557`, or `tcp://*:5557` for every address.
/// - `ipc:///absolute/path`, a UNIX socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Ipc(PathBuf),
}

/// What the address of a UNIX socket holds.
const PATH_BYTES_MAX: usize = 107;

impl Endpoint {
    /// Whether other machines reach it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }

    /// Whether only one of the two can be listened at.
    #[must_use]
    pub fn clashes(&self, with: &Self) -> bool {
        match (self, with) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                let (one_ip, other_ip) = (one.ip(), other.ip());
                one.port() == other.port() && (covers(one_ip, other_ip) || covers(other_ip, one_ip))
            }
            (Self::Ipc(one), Self::Ipc(other)) => one == other,
            _ => false,
        }
    }
}

/// Whether who listens at `one` has what comes to `other`: `::` is every address, also of version 4.
fn covers(one: IpAddr, other: IpAddr) -> bool {
    match one.to_canonical() {
        IpAddr::V6(all) if all.is_unspecified() => true,
        IpAddr::V4(all) if all.is_unspecified() => other.to_canonical().is_ipv4(),
        one => one == other.to_canonical(),
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("tcp", rest)) => tcp(rest).map(Self::Tcp),
            Some(("ipc", rest)) => ipc(rest).map(Self::Ipc),
            _ => Err("it begins neither with tcp:// nor with ipc://".into()),
        }
    }
}

fn tcp(rest: &str) -> Result<SocketAddr, String> {
    let any = rest.strip_prefix("*:").map(|port| format!("{}:{port}", Ipv4Addr::UNSPECIFIED));
    let address = any.as_deref().unwrap_or(rest).parse::<SocketAddr>();
    match address {
        Err(_) => Err("it names no address and port, as tcp://127.0.0.1:5557 does".into()),
        Ok(address) if address.port() == 0 => Err("port 0 is no port".into()),
        Ok(address) => Ok(address),
    }
}

fn ipc(path: &str) -> Result<PathBuf, String> {
    match path {
        _ if !path.starts_with('/') => Err("its path is not absolute".into()),
        _ if path.len() > PATH_BYTES_MAX => {
            Err(format!("its path is longer than {PATH_BYTES_MAX} bytes"))
        }
        _ => Ok(path.into()),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, wanted: &str) {
        let read = text.parse::<Endpoint>();
        let said = read.map_or_else(
            |error| error,
            |endpoint| format!("{endpoint}{}", if endpoint.is_remote() { ", remote" } else { "" }),
        );
        assert_eq!(said, wanted, "{text}");
    }

    #[test]
    fn endpoints_clash_where_one_has_what_comes_to_the_other() {
        let check = |one: &str, other: &str, clash: bool| {
            let (one, other): (Endpoint, Endpoint) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one.clashes(&other), clash, "{one} and {other}");
            assert_eq!(other.clashes(&one), clash, "{other} and {one}");
        };
        check("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5557", true);
        check("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558", false);
        check("tcp://127.0.0.1:5557", "tcp://127.0.0.2:5557", false);
        check("tcp://127.0.0.1:5557", "tcp://[::1]:5557", false);
        check("tcp://127.0.0.1:5557", "tcp://*:5557", true);
        check("tcp://[::1]:5557", "tcp://*:5557", false);
        check("tcp://127.0.0.1:5557", "tcp://[::]:5557", true);
        check("tcp://127.0.0.1:5557", "tcp://[::ffff:127.0.0.1]:5557", true);
        check("ipc:///run/t.events", "ipc:///run//t.events", true);
        check("ipc:///run/t.events", "ipc:///run/t.replay", false);
        check("ipc:///run/t.events", "tcp://127.0.0.1:5557", false);
    }

    #[test]
    fn an_endpoint_is_an_address_or_a_path() {
        check("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5557");
        check("tcp://[::1]:5557", "tcp://[::1]:5557");
        check("tcp://*:5557", "tcp://0.0.0.0:5557, remote");
        check("tcp://10.0.0.7:1", "tcp://10.0.0.7:1, remote");
        check("ipc:///run/terrace.events", "ipc:///run/terrace.events");
        check("tcp://localhost:5557", "it names no address and port, as tcp://127.0.0.1:5557 does");
        check("tcp://127.0.0.1:0", "port 0 is no port");
        check("ipc://terrace.events", "its path is not absolute");
        check(&format!("ipc:///{}", "x".repeat(107)), "its path is longer than 107 bytes");
        check("inproc://a", "it begins neither with tcp:// nor with ipc://");
        check("5557", "it begins neither with tcp:// nor with ipc://");
    }
}
