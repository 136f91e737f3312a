//! Requests for objects, signed beforehand, for whoever speaks HTTP and knows no AWS.

use std::time::Duration;

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use tokio::runtime::Handle;

use super::connect::Source;
use crate::tiers::object::{Bucket, ObjectOptions};
use crate::tiers::open::OpenError;

/// A request that the bucket takes as it stands, with a body where it is a PUT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
}

/// What can be done to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedObject {
    pub put: Signed,
    pub get: Signed,
    pub delete: Signed,
}

/// How long signed requests hold: as long as a benchmark may run.
const VALID: Duration = Duration::from_hours(24);

/// Signs requests for objects of these names, below the bucket's prefix. Waits for the runtime, so
/// call it from outside.
///
/// # Errors
/// There are no credentials or no region, with what to set.
pub fn sign(
    bucket: &Bucket,
    names: &[String],
    runtime: &Handle,
) -> Result<Vec<SignedObject>, OpenError> {
    let source = Source::Standard(Box::new(bucket.clone()), ObjectOptions::default());
    // Nothing is sent with it.
    let client = source.find_from_outside(runtime)?.others;
    let wrong = |error: &dyn std::fmt::Display| OpenError::Config(format!("can't sign: {error}"));
    let valid = PresigningConfig::expires_in(VALID).map_err(|error| wrong(&error))?;
    let sign_one = async |name: &String| {
        let key = [bucket.prefix.as_str(), name].join("/");
        let key = key.trim_start_matches('/');
        let put = client.put_object().bucket(&bucket.name).key(key).presigned(valid.clone());
        let get = client.get_object().bucket(&bucket.name).key(key).presigned(valid.clone());
        let delete = client.delete_object().bucket(&bucket.name).key(key).presigned(valid.clone());
        Ok(SignedObject {
            put: signed(&put.await.map_err(|error| wrong(&error))?),
            get: signed(&get.await.map_err(|error| wrong(&error))?),
            delete: signed(&delete.await.map_err(|error| wrong(&error))?),
        })
    };
    runtime.block_on(async {
        let mut objects = Vec::with_capacity(names.len());
        for name in names {
            objects.push(Box::pin(sign_one(name)).await?);
        }
        Ok(objects)
    })
}

fn signed(request: &PresignedRequest) -> Signed {
    let headers = request.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    Signed {
        method: request.method().to_owned(),
        url: request.uri().to_owned(),
        headers: headers.collect(),
    }
}
