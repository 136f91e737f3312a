//! Makes the client: whose credentials, which region, which endpoint, how long it tries.
//!
//! Never asks the bucket: a store that is down at the start may come back.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, ProvideCredentials, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;
use tokio::runtime::Handle;

use super::super::ObjectOptions;
use super::super::target::Bucket;
use super::errors::causes;
use crate::env;
use crate::tiers::open::OpenError;

/// What stores that are not AWS expect when none is named.
const REGION_ELSEWHERE: &str = "us-east-1";

/// How long the start waits for credentials: machines that ask a metadata service take seconds.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(20);

/// Where clients come from.
pub enum Source {
    /// The standard chain's credentials: environment, profile, web identity, container, instance.
    Standard(Box<Bucket>, ObjectOptions),
    /// Somebody else made it.
    #[cfg(test)]
    Given,
}

impl Source {
    /// Clients; called from outside the runtime.
    pub fn find_from_outside(&self, runtime: &Handle) -> Result<Clients, OpenError> {
        let (bucket, options) = match self {
            Self::Standard(bucket, options) => (&**bucket, *options),
            #[cfg(test)]
            Self::Given => unreachable!("a given client is not looked for"),
        };
        let (tell, told) = crossbeam_channel::bounded(1);
        let asked = bucket.clone();
        env::spawn_task_on(runtime, async move {
            // Nobody listens any more when the time is over.
            let _ = tell.send(find(&asked).await);
        });
        let found = told.recv_timeout(CREDENTIALS_TIMEOUT).unwrap_or_else(|_| {
            Err(OpenError::Config(format!(
                "no AWS credentials were found in {} s: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
                CREDENTIALS_TIMEOUT.as_secs()
            )))
        })?;
        Ok(clients(&Builder::from(&found), &with_endpoint(bucket, &found), options))
    }

    /// Clients with the credentials that are to be had now: files may have changed. Nothing if there
    /// are none, or if clients are somebody else's.
    pub async fn find_again(&self) -> Option<Clients> {
        match self {
            Self::Standard(bucket, options) => {
                let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, find(bucket)).await.ok()?;
                let found = found.ok()?;
                Some(clients(&Builder::from(&found), &with_endpoint(bucket, &found), *options))
            }
            #[cfg(test)]
            Self::Given => None,
        }
    }
}

async fn find(bucket: &Bucket) -> Result<SdkConfig, OpenError> {
    let authorities = check_authorities();
    // Credentials that come over the network mostly come plainly: from the machine itself.
    let client = if authorities.is_ok() { https() } else { plain() };
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client);
    let elsewhere = bucket.endpoint.as_ref().map(|_| REGION_ELSEWHERE);
    if let Some(region) = bucket.region.as_deref().or(elsewhere) {
        loader = loader.region(Region::new(region.to_owned()));
    }
    let found = loader.load().await;
    if speaks_tls(&with_endpoint(bucket, &found)) {
        authorities?;
    }
    if found.region().is_none() {
        return Err(OpenError::Config(format!(
            "no region is known for s3://{0}: write s3://{0}?region=… or set AWS_REGION",
            bucket.name
        )));
    }
    let provider = found.credentials_provider().ok_or_else(|| no_credentials("no provider"))?;
    let credentials = provider.provide_credentials().await;
    credentials.map_err(|error| no_credentials(&causes(&error)))?;
    Ok(found)
}

/// The bucket with the endpoint that its requests go to: its own, or the one that the environment or a
/// profile names, for S3 before all services; none is AWS itself. Where it stands is for the SDK to know.
fn with_endpoint(bucket: &Bucket, found: &SdkConfig) -> Bucket {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("a key has these three");
    let of_s3 = || found.service_config().and_then(|settings| settings.load_config(key));
    let of_all = || found.endpoint_url().map(str::to_owned);
    let endpoint = bucket.endpoint.clone().or_else(of_s3).or_else(of_all);
    Bucket { endpoint, ..bucket.clone() }
}

/// Whether any is known: without one a client that speaks TLS can't even be made.
fn check_authorities() -> Result<(), OpenError> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(());
    }
    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    Err(OpenError::Config(format!(
        "no authority's certificate is known here, and https:// needs some{why}: install \
         ca-certificates, or have SSL_CERT_FILE name a PEM file with certificates in it"
    )))
}

fn no_credentials(why: &str) -> OpenError {
    OpenError::Config(format!(
        "no AWS credentials ({why}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         AWS_PROFILE"
    ))
}

/// Requests that send a body have connections of their own: a server may refuse one before it has read
/// all of it, and cut the connection, and who is next on it would be told of that failure.
#[derive(Clone)]
pub struct Clients {
    pub bodies: Client,
    pub others: Client,
}

/// Clients with the endpoint's and the options' settings on top of `base`.
pub fn clients(base: &Builder, bucket: &Bucket, options: ObjectOptions) -> Clients {
    let client = || client(base.clone(), bucket, options);
    Clients { bodies: client(), others: client() }
}

fn client(base: Builder, bucket: &Bucket, options: ObjectOptions) -> Client {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(options.attempt_timeout)
        .connect_timeout(options.attempt_timeout.min(Duration::from_secs(3)))
        .build();
    let mut config = base
        .http_client(http(bucket))
        .force_path_style(bucket.is_in_path())
        .timeout_config(timeouts)
        // Every attempt is judged: see `attempts`.
        .retry_config(RetryConfig::disabled())
        // Frames have checksums of their own, and many stores know none of S3's newer ones.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &bucket.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Client::from_conf(config.build())
}

/// Certificates are read only where they are needed: a container may have none.
fn http(bucket: &Bucket) -> SharedHttpClient {
    if speaks_tls(bucket) { https() } else { plain() }
}

fn speaks_tls(bucket: &Bucket) -> bool {
    bucket.endpoint.as_ref().is_none_or(|url| url.starts_with("https://"))
}

fn https() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

fn plain() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_http()
}
