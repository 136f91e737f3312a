//! The settings beside the tiers: limits, the metrics endpoint, the log.

use std::net::SocketAddr;
use std::time::Duration;

use super::error::{ConfigError, Problem};
use super::nearest::nearest;
use super::reader::Reader;
use super::{Events, Level, Log, Places, Prefetch, Sessions, Shields};
use crate::domain::retention::PolicyName;
use crate::events::{Endpoint, PublisherConfig};

const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_hours(1);
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
const LEASES_DEFAULT: usize = 65_536;
const CLIENTS_DEFAULT: usize = 256;
const OPS_DEFAULT: usize = 256;
const SHIELD_NAMESPACE: u8 = 50;
const SHIELD_TENANT: u8 = 75;
const IDLE_MIN: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_hours(168);
const IDLE_DEFAULT: Duration = Duration::from_hours(4);
const SESSIONS_DEFAULT: usize = 65_536;
const LIFTS_DEFAULT: usize = 1024;
const LIFT_PERCENT_DEFAULT: u8 = 60;
const HISTORY_DEFAULT: usize = 65_536;

pub(super) struct Limits {
    pub(super) lease_ttl: Duration,
    pub(super) leases_max: usize,
    pub(super) clients_max: usize,
    pub(super) ops_per_client_max: usize,
    pub(super) store_timeout: Duration,
}

impl Limits {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let wait = |name| Ok(reader.duration(name, WAIT_MIN, WAIT_MAX)?.unwrap_or(WAIT_DEFAULT));
        Ok(Self {
            lease_ttl: wait("leases.ttl")?,
            leases_max: reader.count("leases.max")?.unwrap_or(LEASES_DEFAULT),
            clients_max: reader.count("clients.max")?.unwrap_or(CLIENTS_DEFAULT),
            ops_per_client_max: reader.count("ops.per_client_max")?.unwrap_or(OPS_DEFAULT),
            store_timeout: wait("ops.store_timeout")?,
        })
    }
}

/// What ranks the blocks of every tier.
pub(super) fn policy(reader: &Reader<'_>) -> Result<PolicyName, ConfigError> {
    let word = reader.choice("retention.policy")?;
    let named = |word| PolicyName::ALL.into_iter().find(|policy| policy.name() == word);
    Ok(word.and_then(named).unwrap_or_default())
}

/// How much shields may hold, in hundredths of each tier.
pub(super) fn shields(reader: &Reader<'_>) -> Result<Shields, ConfigError> {
    const OF_NAMESPACE: &str = "retention.namespace_shield_percent";
    const OF_TENANT: &str = "retention.tenant_shield_percent";
    let (namespace, tenant) = (percent(reader, OF_NAMESPACE)?, percent(reader, OF_TENANT)?);
    // Who sets only one of the two means it.
    let namespace_percent = namespace.unwrap_or(SHIELD_NAMESPACE.min(tenant.unwrap_or(100)));
    let tenant_percent = tenant.unwrap_or(SHIELD_TENANT.max(namespace_percent));
    if tenant_percent < namespace_percent {
        let problem = format!("less than {OF_NAMESPACE}, which is {namespace_percent}");
        let remedy = format!("give at least {namespace_percent}, or lower {OF_NAMESPACE}");
        return Err(reader.wrong(OF_TENANT, Problem::new(problem, remedy)));
    }
    Ok(Shields { namespace_percent, tenant_percent })
}

fn percent(reader: &Reader<'_>, name: &str) -> Result<Option<u8>, ConfigError> {
    let count = reader.count(name)?;
    Ok(count.map(|count| u8::try_from(count).expect("the table bounds it to 100")))
}

pub(super) fn prefetch(reader: &Reader<'_>) -> Result<Prefetch, ConfigError> {
    Ok(Prefetch {
        lifts_max: reader.count("prefetch.lifts_max")?.unwrap_or(LIFTS_DEFAULT),
        tier_percent: percent(reader, "prefetch.tier_percent")?.unwrap_or(LIFT_PERCENT_DEFAULT),
    })
}

pub(super) fn events(reader: &Reader<'_>) -> Result<Events, ConfigError> {
    let history = reader.count("events.history")?.unwrap_or(HISTORY_DEFAULT);
    let remote = reader.boolean("events.allow_remote")?.unwrap_or(false);
    let publish = endpoint(reader, "events.zmq", remote)?;
    let replay = endpoint(reader, "events.zmq_replay", remote)?;
    let wrong =
        |name, problem: &str, remedy: &str| Err(reader.wrong(name, Problem::new(problem, remedy)));
    let Some(publish) = publish else {
        return match replay {
            Some(_) => wrong(
                "events.zmq_replay",
                "nothing is published that could be sent again",
                "set events.zmq as well, or leave this one off",
            ),
            None => Ok(Events { history, publisher: None }),
        };
    };
    if history == 0 {
        return wrong(
            "events.zmq",
            "events.history is 0, so there is nothing to publish",
            "raise events.history, or set this one to off",
        );
    }
    let topic = reader.text("events.topic").unwrap_or_default().to_owned();
    Ok(Events { history, publisher: Some(PublisherConfig { publish, replay, topic }) })
}

/// An endpoint, if there is one; another machine reaches it only where that is said twice.
fn endpoint(
    reader: &Reader<'_>,
    name: &str,
    remote: bool,
) -> Result<Option<Endpoint>, ConfigError> {
    let text = match reader.text(name) {
        None | Some("off") => return Ok(None),
        Some(text) => text,
    };
    let wrong =
        |problem: &str, remedy: &str| Err(reader.wrong(name, Problem::new(problem, remedy)));
    match text.parse::<Endpoint>() {
        Err(problem) => wrong(&problem, "write tcp://127.0.0.1:5557, ipc:///folder/socket or off"),
        Ok(endpoint) if endpoint.is_remote() && !remote => wrong(
            "other machines could reach this address, and whoever listens learns what is cached",
            "name a loopback address, or set events.allow_remote = true",
        ),
        Ok(endpoint) => Ok(Some(endpoint)),
    }
}

pub(super) fn sessions(reader: &Reader<'_>) -> Result<Sessions, ConfigError> {
    let idle = reader.duration("sessions.idle_timeout", IDLE_MIN, IDLE_MAX)?;
    Ok(Sessions {
        idle_timeout: idle.unwrap_or(IDLE_DEFAULT),
        sessions_max: reader.count("sessions.max")?.unwrap_or(SESSIONS_DEFAULT),
    })
}

/// Where the metrics endpoint listens; another machine reaches it only where that is said twice.
pub(super) fn metrics(reader: &Reader<'_>) -> Result<Option<SocketAddr>, ConfigError> {
    let remote = reader.boolean("metrics.allow_remote")?.unwrap_or(false);
    let text = match reader.text("metrics.listen") {
        None | Some("off") => return Ok(None),
        Some(text) => text,
    };
    let wrong = |problem: &str, remedy: &str| {
        Err(reader.wrong("metrics.listen", Problem::new(problem, remedy)))
    };
    match text.parse::<SocketAddr>() {
        Err(_) => wrong("not an address and port", "write 127.0.0.1:9464, [::1]:9464 or off"),
        Ok(address) if address.port() == 0 => wrong("port 0 is no port", "name one, such as 9464"),
        Ok(address) if address.ip().is_loopback() || remote => Ok(Some(address)),
        Ok(_) => wrong(
            "other machines could reach this address, and the endpoint asks for no password",
            "listen on 127.0.0.1, or set metrics.allow_remote to true",
        ),
    }
}

/// No socket of the events lies where the daemon listens already.
pub(super) fn check_endpoints(
    reader: &Reader<'_>,
    events: &Events,
    metrics: Option<SocketAddr>,
    places: &Places,
) -> Result<(), ConfigError> {
    let mut twin = places.socket.clone().into_os_string();
    twin.push(".fd");
    let mut taken = vec![
        ("socket", Endpoint::Ipc(places.socket.clone())),
        ("socket, with `.fd` appended,", Endpoint::Ipc(twin.into())),
    ];
    taken.extend(metrics.map(|address| ("metrics.listen", Endpoint::Tcp(address))));
    for (name, endpoint) in events.publisher.iter().flat_map(PublisherConfig::sockets) {
        if let Some((owner, there)) = taken.iter().find(|(_, other)| other.clashes(endpoint)) {
            let problem = format!("{owner} has it already: {there}");
            return Err(reader.wrong(name, Problem::new(problem, "name another port or path")));
        }
        taken.push((name, endpoint.clone()));
    }
    Ok(())
}

/// The modules that can be named: the rooms of the library.
const MODULES: [&str; 10] = [
    "env", "tiers", "movement", "manager", "wire", "service", "events", "client", "observe", "cli",
];

pub(super) fn log(reader: &Reader<'_>) -> Result<Log, ConfigError> {
    let json = reader.choice("log.format")? == Some("json");
    let text = reader.text("log.level").unwrap_or("info");
    let levels = levels(text).map_err(|problem| reader.wrong("log.level", problem))?;
    Ok(Log { levels, json })
}

fn levels(text: &str) -> Result<Vec<(String, Level)>, Problem> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (module, level) = part.split_once('=').unwrap_or(("", part));
        if !module.is_empty() {
            check_module(module)?;
        }
        found.push((module.to_owned(), self::level(level)?));
    }
    if !found.iter().any(|(module, _)| module.is_empty()) {
        found.push((String::new(), Level::Info));
    }
    found.sort_by_key(|(module, _)| module.len());
    Ok(found)
}

fn level(word: &str) -> Result<Level, Problem> {
    Level::ALL.into_iter().find(|level| level.name() == word).ok_or_else(|| {
        let names = Level::ALL.map(Level::name).join(", ");
        Problem::new(
            format!("no level `{word}`"),
            format!("levels are {names}; for a module write module=level, comma between them"),
        )
    })
}

fn check_module(module: &str) -> Result<(), Problem> {
    let room = module.split("::").next().unwrap_or_default();
    if MODULES.contains(&room) {
        return Ok(());
    }
    let near = nearest(room, MODULES).map(|near| format!("did you mean `{near}`? "));
    Err(Problem::new(
        format!("no module `{module}`"),
        format!("{}modules are {}", near.unwrap_or_default(), MODULES.join(", ")),
    ))
}
