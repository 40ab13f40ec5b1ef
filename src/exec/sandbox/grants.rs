//! What a script may read and write, as a list for the kernel.
//!
//! Landlock knows no "all but": whatever has a secret below it is not granted itself; its entries
//! are, one by one, without the secret. What is made in such a directory while the script runs
//! cannot be read by it.

use std::path::{Path, PathBuf};

use super::{Mode, Policy};

/// What is granted of a path and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Names of files.
    List,
    /// Contents of files, and programs.
    Read,
    /// Everything but devices.
    Write,
    /// A device.
    Device,
    /// A connection to a program that waits at this socket.
    Connect,
}

/// Where every system keeps programs and settings.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc",
    "/opt",
    "/nix",
    "/gnu",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/run/resolvconf",
];

/// Devices that computing needs.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/dri",
    "/dev/kfd",
    "/dev/infiniband",
    "/dev/nvidia-caps",
    "/dev/dxg",
];

/// Sockets that looking up users, names and batch systems needs.
const SOCKETS: &[&str] = &["/run/nscd", "/run/munge", "/run/systemd/userdb", "/var/lib/sss/pipes"];

/// Shared memory: `multiprocessing`, joblib and MPI.
const SHARED: &str = "/dev/shm";

/// The grants of a policy.
pub(crate) fn grants(policy: &Policy) -> Vec<(PathBuf, Right)> {
    let mut list = Vec::new();
    if policy.mode == Mode::Strict {
        let system = SYSTEM.iter().map(PathBuf::from);
        for place in system.chain(policy.python.iter().cloned()) {
            open(&place, &policy.secrets, &mut list);
        }
    } else {
        // Names are no secret, and a program that cannot list a directory finds no data in it.
        list.push((PathBuf::from("/"), Right::List));
        open(Path::new("/"), &policy.secrets, &mut list);
        list.push((PathBuf::from(SHARED), Right::Write));
    }
    list.extend(policy.read.iter().map(|place| (place.clone(), Right::Read)));
    list.extend(policy.write.iter().map(|place| (place.clone(), Right::Write)));
    list.extend(DEVICES.iter().map(|device| (PathBuf::from(device), Right::Device)));
    let cards = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let cards = cards.filter(|entry| entry.file_name().to_string_lossy().starts_with("nvidia"));
    list.extend(cards.map(|entry| (entry.path(), Right::Device)));
    list.extend(SOCKETS.iter().map(|socket| (PathBuf::from(socket), Right::Connect)));
    list
}

/// Grants reading of `place` and all below it but the secrets.
fn open(place: &Path, secrets: &[PathBuf], list: &mut Vec<(PathBuf, Right)>) {
    // Devices are granted by name: through one, root could read the whole disk.
    if place == Path::new("/dev") || secrets.iter().any(|secret| secret == place) {
        return;
    }
    let mixed = place == Path::new("/") || secrets.iter().any(|secret| secret.starts_with(place));
    if !mixed {
        list.push((place.to_owned(), Right::Read));
        return;
    }
    // A directory that cannot be listed by us has nothing in it that a script could read.
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        // What a link leads to is granted where it is.
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            open(&entry.path(), secrets, list);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn neighbours_of_a_secret_are_granted_and_neither_it_nor_what_holds_it() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for folder in ["home/me/.ssh", "home/me/data", "home/you", ".config/gcloud", ".config/matplotlib"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("home/me/.ssh"), root.join("link")).unwrap();
        let secrets = ["home/me/.ssh", ".config/gcloud", "home/me/.aws"].map(|name| root.join(name));
        let mut list = Vec::new();
        open(&root, &secrets, &mut list);
        let mut granted: Vec<_> =
            list.iter().map(|(path, _)| path.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        granted.sort_unstable();
        assert_eq!(granted, [".config/matplotlib", "home/me/data", "home/you"]);
    }
}
