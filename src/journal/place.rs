//! Where the store is, and what kind of file system that is.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The variable that names the store.
pub const STORE_VAR: &str = "CMBAGENT_STORE";

/// The store of a user: `CMBAGENT_STORE`, else `$XDG_STATE_HOME/cmbagent/store.db`, else the same
/// under `~/.local/state`.
///
/// # Errors
/// [`Error::Journal`] when there is no home directory.
pub fn default_path(env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    if let Some(path) = set(STORE_VAR) {
        return expand(&path, env);
    }
    // The specification of base directories has relative paths ignored.
    let state = set("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = match state {
        Some(state) => state,
        None => expand("~/.local/state", env)?,
    };
    Ok(state.join("cmbagent").join("store.db"))
}

/// A path as users write it: `~` stands for the home directory, and a relative one starts here.
pub fn expand(path: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let Some(below) = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return std::path::absolute(path).map_err(|e| Error::Journal(format!("{path:?} is no path: {e}")));
    };
    let home = env("HOME").filter(|home| !home.is_empty()).ok_or_else(|| {
        Error::Journal(format!(
            "there is no home directory (HOME is not set) to keep the record of runs in: set {STORE_VAR} to a \
             file, or to :memory: for runs that need not survive a crash"
        ))
    })?;
    Ok(Path::new(&home).join(below.trim_start_matches('/')))
}

/// The name of the network file system that `directory` is on, where SQLite's shared memory does not work.
#[cfg(target_os = "linux")]
pub fn network(directory: &Path) -> Option<&'static str> {
    // From linux/magic.h and the file systems' own headers.
    const KNOWN: [(u32, &str); 9] = [
        (0x6969, "NFS"),
        (0x0BD0_0BD0, "Lustre"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB"),
        (0x517B, "SMB"),
        (0x1983_0326, "BeeGFS"),
        (0x4750_4653, "GPFS"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
    ];
    let kind = rustix::fs::statfs(directory).ok()?.f_type;
    // The kernel's magic numbers are 32 bits wide, whatever the field is.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    let kind = kind as u32;
    KNOWN.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

/// The name of the network file system that `directory` is on; only Linux tells.
#[cfg(not(target_os = "linux"))]
pub fn network(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{default_path, network};

    #[test]
    fn the_store_is_where_the_environment_says() {
        let path = |pairs: &[(&str, &str)]| {
            let env = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            default_path(&env).map(|path| path.to_string_lossy().into_owned())
        };
        assert_eq!(path(&[("HOME", "/h")]).unwrap(), "/h/.local/state/cmbagent/store.db");
        assert_eq!(path(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]).unwrap(), "/s/cmbagent/store.db");
        assert_eq!(
            path(&[("HOME", "/h"), ("XDG_STATE_HOME", "s")]).unwrap(),
            "/h/.local/state/cmbagent/store.db"
        );
        assert_eq!(path(&[("HOME", "/h"), ("CMBAGENT_STORE", "~/x.db")]).unwrap(), "/h/x.db");
        assert!(path(&[]).unwrap_err().to_string().contains("CMBAGENT_STORE"));
        assert!(path(&[("CMBAGENT_STORE", "a.db")]).unwrap().ends_with("/a.db"));
    }

    #[test]
    fn a_local_directory_is_on_no_network() {
        assert_eq!(network(&std::env::temp_dir()), None);
    }
}
