//! The kernels' own sources on this CPU: compiled with the C compiler and loaded, for tests.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::Kernel;

type Launch = unsafe extern "C" fn(*const c_char, u32, u32, *mut *mut c_void) -> c_int;

/// Runs `kernel` with `groups` groups of `threads` threads, one after the other.
///
/// # Safety
/// `args` point to the kernel's arguments, and every address in them to what the kernel may read
/// and write, as for a launch on a device.
pub(in crate::tiers::hbm::cuda) unsafe fn launch(
    kernel: Kernel,
    groups: u32,
    threads: u32,
    args: &mut [*mut c_void],
) {
    let name = CString::new(kernel.name()).unwrap();
    let launch = library();
    // SAFETY: the function has this type; the caller answers for the arguments.
    let ended = unsafe { launch(name.as_ptr(), groups, threads, args.as_mut_ptr()) };
    assert_eq!(ended, 0, "{kernel:?}: see launch_on_host in kernels/host.c");
}

fn library() -> Launch {
    static LAUNCH: OnceLock<Launch> = OnceLock::new();
    *LAUNCH.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.so");
        compile(&path);
        load(&path)
    })
}

fn compile(target: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/host.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let options = "-std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -fno-strict-aliasing -shared \
                   -fPIC -x c";
    let output = Command::new(&compiler)
        .args(options.split_whitespace())
        .arg(source)
        .arg("-o")
        .arg(target)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}: install a C compiler"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn load(path: &Path) -> Launch {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the library was made just now of our own sources and runs nothing when loaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "the kernels that were compiled can't be loaded");
    // SAFETY: the library stays loaded for the life of the process.
    let symbol = unsafe { libc::dlsym(library, c"launch_on_host".as_ptr()) };
    assert!(!symbol.is_null(), "kernels/host.c has no launch_on_host");
    // SAFETY: `kernels/host.c` defines the symbol with this type.
    unsafe { std::mem::transmute::<*mut c_void, Launch>(symbol) }
}
