//! The bench's S3 servers: with or without signatures, near or far.

use std::path::Path;
use std::time::Duration;

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::s3::{S3Server, ask_for_credentials};

/// Answers so much later.
struct Far(Duration);

#[async_trait::async_trait]
impl S3Access for Far {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        cx.credentials().ok_or_else(|| S3Error::new(S3ErrorCode::AccessDenied))?;
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
        Ok(())
    }
}

/// Takes requests of anybody.
pub fn open(root: &Path) -> S3Server {
    S3Server::start(root, |_, _| ())
}

/// Takes signed requests only.
pub fn signed(root: &Path, far: Duration) -> S3Server {
    S3Server::start(root, |builder, port| {
        ask_for_credentials(builder, port);
        builder.set_access(Far(far));
    })
}
