//! Landlock and capabilities, put on the thread that starts a script.
//!
//! Both belong to a thread and pass on to what it starts, so that a thread made for the purpose
//! confines a script and nobody else, without code between fork and exec.

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{confine, leave_network};
#[cfg(target_os = "linux")]
pub(crate) use linux::{confine, leave_network};

/// Other systems have nothing of the kind that can be had without code between fork and exec.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;
    use std::path::PathBuf;

    use super::super::grants::Right;

    #[allow(clippy::unnecessary_wraps)] // The same signature everywhere.
    pub(crate) fn confine(_grants: &[(PathBuf, Right)], _network: bool) -> Result<Option<i32>, String> {
        Ok(None)
    }

    pub(crate) fn leave_network() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
        RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
    };
    use rustix::thread::{CapabilitySet, UnshareFlags};

    use super::super::grants::Right;

    /// The newest interface whose rights are known here; on older kernels those that are there hold.
    const KNOWN: ABI = ABI::V10;

    /// What root may go on doing. The rest reaches the machine behind its files: raw disks, other
    /// processes, kernel memory, mounts.
    const KEPT: CapabilitySet = CapabilitySet::CHOWN
        .union(CapabilitySet::DAC_OVERRIDE)
        .union(CapabilitySet::FOWNER)
        .union(CapabilitySet::FSETID)
        .union(CapabilitySet::KILL)
        .union(CapabilitySet::SETGID)
        .union(CapabilitySet::SETUID)
        .union(CapabilitySet::NET_BIND_SERVICE)
        .union(CapabilitySet::IPC_LOCK)
        .union(CapabilitySet::SYS_NICE);

    /// Confines the calling thread, for good; gives the version of Landlock that does it.
    ///
    /// Without `network` no TCP connection can be made or awaited, where the kernel knows of it.
    pub(crate) fn confine(grants: &[(PathBuf, Right)], network: bool) -> Result<Option<i32>, String> {
        let confined = landlock(grants, network).map_err(|error| {
            format!("the sandbox of scripts could not be set up ({error}); sandbox=\"off\" goes without")
        });
        drop_capabilities();
        confined
    }

    fn landlock(grants: &[(PathBuf, Right)], network: bool) -> Result<Option<i32>, RulesetError> {
        let mut rules =
            Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
        if !network {
            rules = rules.handle_access(AccessNet::from_all(KNOWN))?;
        }
        let mut rules = rules.create()?;
        for (path, right) in grants {
            rules = add(rules, path, *right)?;
        }
        let status = rules.restrict_self()?;
        Ok(match status.landlock {
            LandlockStatus::Available { effective_abi, kernel_abi } => {
                Some(kernel_abi.unwrap_or(effective_abi as i32))
            }
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
        })
    }

    /// Adds a rule; a path that is not there has nothing to grant.
    fn add(rules: RulesetCreated, path: &Path, right: Right) -> Result<RulesetCreated, RulesetError> {
        let Ok(place) = PathFd::new(path) else { return Ok(rules) };
        let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
        let all: BitFlags<AccessFs> = match right {
            Right::List => AccessFs::ReadDir.into(),
            Right::Read => AccessFs::from_read(KNOWN),
            Right::Write => AccessFs::from_all(KNOWN) & !devices,
            Right::Device => {
                AccessFs::from_read(KNOWN) | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
            }
            Right::Connect => AccessFs::ResolveUnix.into(),
        };
        let kinds = std::fs::metadata(path).map(|facts| facts.is_dir());
        // A file has no entries to list or make.
        let fitting = if kinds.unwrap_or(true) { all } else { all & AccessFs::from_file(KNOWN) };
        if fitting.is_empty() { Ok(rules) } else { rules.add_rule(PathBeneath::new(place, fitting)) }
    }

    /// Takes from root what it does not need to compute. Nobody else has anything to lose.
    fn drop_capabilities() {
        for capability in
            CapabilitySet::all().iter_names().map(|(_, one)| one).filter(|one| !KEPT.contains(*one))
        {
            // Refused to all but root, who gains nothing by a refusal.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }

    /// Leaves the machine's network for one of this process's own, without a way out. The process must
    /// have no other thread yet.
    pub(crate) fn leave_network() -> std::io::Result<()> {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        // Root may do it as it is; others may where users can have namespaces.
        if unshare(UnshareFlags::NEWNET).is_ok() {
            return Ok(());
        }
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    }

    #[allow(deprecated)] // It is unsafe with file tables only, and these are not among the flags.
    fn unshare(what: UnshareFlags) -> std::io::Result<()> {
        Ok(rustix::thread::unshare(what)?)
    }
}
