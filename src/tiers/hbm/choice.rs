//! Which device is the HBM tier's, as an operator says it.

use super::cuda::GpuFacts;

/// Which device to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the host.
    #[default]
    Auto,
    /// Shared memory of this machine.
    Host,
    /// The GPU of this number, as CUDA counts them: among those that `CUDA_VISIBLE_DEVICES` shows, in the
    /// order of `CUDA_DEVICE_ORDER`. `nvidia-smi -L` counts all, by their PCI addresses.
    Cuda(u32),
}

impl DeviceChoice {
    /// What `auto`, `host` or `cuda:N` says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "auto" => Some(Self::Auto),
            "host" => Some(Self::Host),
            other => {
                let digits = other.strip_prefix("cuda:")?;
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse().ok().filter(|_| plain).map(Self::Cuda)
            }
        }
    }

    /// The GPU that is used where these are found; none for the host, and where it is not there.
    #[must_use]
    pub fn among(self, gpus: &[GpuFacts]) -> Option<&GpuFacts> {
        match self {
            Self::Host => None,
            Self::Auto => gpus.first(),
            Self::Cuda(ordinal) => gpus.iter().find(|gpu| gpu.ordinal == ordinal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let cases = [
            ("auto", Some(DeviceChoice::Auto)),
            (" host ", Some(DeviceChoice::Host)),
            ("cuda:0", Some(DeviceChoice::Cuda(0))),
            ("cuda:12", Some(DeviceChoice::Cuda(12))),
            ("cuda", None),
            ("cuda:", None),
            ("cuda:+1", None),
            ("cuda:-1", None),
            ("cuda:99999999999", None),
            ("gpu:0", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(DeviceChoice::parse(text), wanted, "{text:?}");
        }
    }
}
