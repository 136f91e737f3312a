//! HBM on a CUDA device: so far its kernels, which the tests run on the CPU.
//!
//! The only place that may know CUDA.

mod kernels;
