//! What an object store's URL says. Never opens anything.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where objects are kept.
///
/// - `file:///absolute/path`, optionally `?fsync=true`: objects survive a power cut, at a price.
/// - `s3://bucket/prefix`, optionally with `endpoint=http://host:port` (for anything that is not
///   AWS), `region=name` and `path_style=true|false` (true by default when there is an endpoint).
///
/// Characters that mean something in a URL are written `%XX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Dir { path: PathBuf, fsync: bool },
    S3(Bucket),
}

/// A bucket, and a prefix in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub name: String,
    /// Without slashes at its ends; may be empty.
    pub prefix: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Whether the bucket stands in the path; unsaid it does wherever there is an endpoint.
    pub path_style: Option<bool>,
}

impl Bucket {
    /// Names another server than AWS.
    ///
    /// # Errors
    /// It is no `http://` or `https://` address.
    pub fn set_endpoint(&mut self, endpoint: String) -> Result<(), String> {
        self.endpoint = Some(checked_endpoint(endpoint)?);
        Ok(())
    }

    /// Whether the bucket stands in the path and not in the host name: servers other than AWS mostly want
    /// it there.
    #[must_use]
    pub fn is_in_path(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir { path, .. } => write!(f, "file://{}", path.display()),
            Self::S3(bucket) => write!(f, "s3://{}/{}", bucket.name, bucket.prefix),
        }
    }
}

const FORMS: &str = "use file:///path or s3://bucket/prefix";

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let parsed = match url.split_once("://") {
            Some(("file", rest)) => dir(rest),
            Some(("s3", rest)) => bucket(rest).map(Self::S3),
            Some((scheme, _)) => Err(format!("`{scheme}://` is not known; {FORMS}")),
            None => Err(meant(url)),
        };
        parsed.map_err(|wrong| format!("object store `{url}`: {wrong}"))
    }
}

/// What may have been meant where no `://` is.
fn meant(url: &str) -> String {
    match url.split_once(':') {
        Some(("s3", rest)) => format!("did you mean `s3://{}`?", rest.trim_start_matches('/')),
        Some(("file", path)) if path.starts_with('/') => format!("did you mean `file://{path}`?"),
        _ if url.starts_with('/') => format!("did you mean `file://{url}`?"),
        _ => format!("it has no scheme; {FORMS}"),
    }
}

fn dir(rest: &str) -> Result<Target, String> {
    let (path, query) = split_query(rest);
    let path = path.strip_prefix("localhost").unwrap_or(path);
    if path == "/" {
        return Err("the whole file system is no folder for objects".into());
    }
    if !path.starts_with('/') {
        return Err("the path after `file://` must be absolute, as in file:///var/blocks".into());
    }
    let mut fsync = false;
    for (name, value) in pairs(query, &["fsync"])? {
        fsync = yes_or_no(name, &value)?;
    }
    Ok(Target::Dir { path: decoded(path)?.into(), fsync })
}

fn bucket(rest: &str) -> Result<Bucket, String> {
    let (path, query) = split_query(rest);
    let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
    if name.contains('@') {
        return Err("credentials don't belong in a URL: set AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, or a profile"
            .into());
    }
    check_name(name)?;
    let prefix = decoded(prefix.trim_matches('/'))?;
    if prefix.split('/').any(|part| matches!(part, "." | "..")) || prefix.contains("//") {
        return Err(format!("the prefix `{prefix}` has an empty or dotted part"));
    }
    let (mut endpoint, mut region, mut path_style) = (None, None, None);
    for (name, value) in pairs(query, &["endpoint", "region", "path_style"])? {
        match name {
            "endpoint" => endpoint = Some(checked_endpoint(value)?),
            "region" if value.is_empty() => return Err("the region is empty".into()),
            "region" => region = Some(value),
            _ => path_style = Some(yes_or_no(name, &value)?),
        }
    }
    Ok(Bucket { name: name.into(), prefix, endpoint, region, path_style })
}

/// Source: Amazon S3 user guide, "General purpose bucket naming rules".
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = |c: char| plain(c) || matches!(c, '-' | '.');
    if (3..=63).contains(&name.len())
        && name.chars().all(inside)
        && name.starts_with(plain)
        && name.ends_with(plain)
    {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens"
    ))
}

fn checked_endpoint(value: String) -> Result<String, String> {
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with(['/', ':']) => Ok(value),
        _ => Err(format!("the endpoint `{value}` must be http://host:port or https://host:port")),
    }
}

fn split_query(rest: &str) -> (&str, &str) {
    rest.split_once('?').unwrap_or((rest, ""))
}

/// The query's settings, each known and given once.
fn pairs<'a>(query: &str, known: &[&'a str]) -> Result<Vec<(&'a str, String)>, String> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(&name) = known.iter().find(|known| **known == name) else {
            return Err(format!("no setting `{name}`: after the ? stand {}", known.join(", ")));
        };
        if found.iter().any(|(other, _)| *other == name) {
            return Err(format!("`{name}` is given twice"));
        }
        found.push((name, decoded(value)?));
    }
    Ok(found)
}

fn yes_or_no(name: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("`{name}={value}`: say true or false"))
}

/// The text with its `%XX` undone.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` has a `%` that is not followed by two hex digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(wrong()) };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(wrong);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).map_err(|_| wrong())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s3(name: &str, prefix: &str) -> Bucket {
        let (name, prefix) = (name.into(), prefix.into());
        Bucket { name, prefix, endpoint: None, region: None, path_style: None }
    }

    #[test]
    fn urls_are_understood() {
        let check = |url: &str, wanted: Target| assert_eq!(url.parse(), Ok(wanted), "{url}");
        let dir = |path: &str, fsync| Target::Dir { path: path.into(), fsync };
        check("file:///var/blocks", dir("/var/blocks", false));
        check("file://localhost/a%20b?fsync=true", dir("/a b", true));
        check("s3://kv-blocks", Target::S3(s3("kv-blocks", "")));
        check("s3://kv-blocks/a/b/", Target::S3(s3("kv-blocks", "a/b")));
        let local = Bucket {
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: Some("eu-west-1".into()),
            path_style: None,
            ..s3("kv-blocks", "p")
        };
        let url = "s3://kv-blocks/p?endpoint=http://127.0.0.1:9000&region=eu-west-1";
        check(url, Target::S3(local.clone()));
        let virtual_host = Bucket { path_style: Some(false), ..local };
        check(&format!("{url}&path_style=false"), Target::S3(virtual_host));
    }

    #[test]
    fn a_bucket_stands_in_the_path_where_there_is_an_endpoint_unless_it_is_said() {
        let endpoint = || Some("http://minio:9000".to_owned());
        let is_in_path =
            |endpoint, path_style| Bucket { endpoint, path_style, ..s3("b", "") }.is_in_path();
        assert!(!is_in_path(None, None) && is_in_path(None, Some(true)));
        assert!(is_in_path(endpoint(), None) && !is_in_path(endpoint(), Some(false)));
    }

    #[test]
    fn typos_are_named_with_what_to_write() {
        let check = |url: &str, words: &str| {
            let said = url.parse::<Target>().unwrap_err();
            assert!(said.contains(words) && said.contains(url), "{said}");
        };
        check("/var/blocks", "did you mean `file:///var/blocks`?");
        check("var", "no scheme");
        check("gs://bucket/x", "`gs://` is not known");
        check("file://relative/path", "must be absolute");
        check("file://", "must be absolute");
        check("file:///", "the whole file system");
        check("file:/tmp/x", "did you mean `file:///tmp/x`?");
        check("s3:/kv-blocks/x", "did you mean `s3://kv-blocks/x`?");
        check("file:///x?fsink=true", "no setting `fsink`: after the ? stand fsync");
        check("file:///x?fsync=yes", "say true or false");
        check("file:///x%2", "two hex digits");
        check("s3://", "no bucket's name");
        check("s3://Upper/x", "lower-case");
        check("s3://bucket/../x", "dotted part");
        check("s3://me:secret@bucket/x", "credentials don't belong in a URL");
        check("s3://bucket?endpoint=localhost:9000", "must be http://host:port");
        check("s3://bucket?endpoint=http://", "must be http://host:port");
        check("s3://bucket?region=", "the region is empty");
        check("s3://bucket?region=a&region=b", "given twice");
        check("s3://bucket?path-style=true", "endpoint, region, path_style");
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in ".{0,80}") {
            let _ = text.parse::<Target>();
            let _ = format!("s3://{text}").parse::<Target>();
            let refused = format!("ftp://{text}").parse::<Target>();
            prop_assert!(refused.is_err());
        }
    }
}
