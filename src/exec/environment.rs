//! What a script sees of the host's environment: an allow-list, and never a secret.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Variables that pass by their exact name.
const NAMES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TZDIR",
    "TERM",
    "COLUMNS",
    "LINES",
    "TMPDIR",
    "TMP",
    "TEMP",
    "HOSTNAME",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "PYTHONNOUSERSITE",
    "PYTHONHASHSEED",
    "PYTHONWARNINGS",
    "MPLCONFIGDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "COBAYA_PACKAGES_PATH",
    "VECLIB_MAXIMUM_THREADS",
    "CC",
    "CXX",
    "FC",
    "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY",
    "TBB_NUM_THREADS",
    "MALLOC_ARENA_MAX",
];

/// Variables that pass by the beginning of their name.
const PREFIXES: &[&str] = &[
    "LC_",
    "DYLD_",
    "CONDA_",
    "MAMBA_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "ROCR_",
    "HIP_",
    "HSA_",
    "OMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "BLIS_",
    "NUMEXPR_",
    "NUMBA_",
    "JAX_",
    "XLA_",
    "TF_",
    "PYTORCH_",
    "HDF5_",
    "ASTROPY_",
    "SLURM_",
    "PBS_",
    "LSB_",
    "SGE_",
    "OMPI_",
    "MPI",
    "PMI",
    "I_MPI_",
    "UCX_",
    "FI_",
];

/// Parts of a name that make it a secret's.
const SECRET_PARTS: &[&str] =
    &["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "AUTH", "COOKIE", "JWT"];

/// Beginnings by which providers make their keys and tokens known.
const SECRET_STARTS: &[&str] = &[
    "sk-",
    "sk_",
    "rk_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hf_",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "gsk_",
    "nvapi-",
    "pypi-",
    "-----BEGIN",
];

/// The environment of one script.
///
/// `host` is the host's own environment, `python_path` the directories that come before its
/// `PYTHONPATH`, `passthrough` exact names that pass whatever they look like: the user named them.
/// Output is unbuffered UTF-8, figures are drawn without a display, and no byte code is written.
/// Values that are not UTF-8 are left out.
pub fn for_script(
    host: impl IntoIterator<Item = (OsString, OsString)>,
    python_path: &[PathBuf],
    passthrough: &[String],
) -> Vec<(String, String)> {
    let host: Vec<_> = host.into_iter().collect();
    let mut environment: BTreeMap<String, String> = filtered(host.iter().cloned())
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();

    let inherited = environment.remove("PYTHONPATH").filter(|path| !path.is_empty());
    let inherited: Vec<PathBuf> = inherited.iter().flat_map(std::env::split_paths).collect();
    // A directory whose name holds the separator cannot be in the list at all.
    let usable = python_path.iter().chain(&inherited).filter(|path| std::env::join_paths([path]).is_ok());
    if let Some(joined) = std::env::join_paths(usable).ok().and_then(|path| path.into_string().ok())
        && !joined.is_empty()
    {
        environment.insert("PYTHONPATH".to_owned(), joined);
    }
    for (name, value) in [
        ("MPLBACKEND", "Agg"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONIOENCODING", "utf-8"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ] {
        environment.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in host {
        if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
            && passthrough.iter().any(|wanted| wanted == name)
            && name != "PYTHONPATH"
        {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    environment.into_iter().collect()
}

/// The allow-listed part of an environment, without anything that looks like a secret: by its
/// name, by its value, or because it repeats the value of a variable with a secret's name.
pub fn filtered(host: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let host: Vec<_> = host.into_iter().collect();
    let secrets: Vec<&str> = host
        .iter()
        .filter(|(name, _)| secret_name(name))
        .filter_map(|(_, value)| value.to_str())
        // Short values and paths (`SSH_AUTH_SOCK`) are no keys, and stand in other values by chance.
        .filter(|value| value.len() >= 12 && !value.starts_with('/'))
        .collect();
    host.iter()
        .filter(|(name, value)| allowed(name) && !secret_name(name) && !secret_value(value, &secrets))
        .cloned()
        .collect()
}

fn allowed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        // The lower-case forms are the ones that curl and Python read first.
        || name.strip_suffix("_proxy").is_some_and(|kind| matches!(kind, "http" | "https" | "ftp" | "all" | "no"))
}

fn secret_name(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    SECRET_PARTS.iter().any(|part| name.contains(part)) || name.ends_with("_PASS") || name.ends_with("_PWD")
}

fn secret_value(value: &OsStr, secrets: &[&str]) -> bool {
    let value = value.to_string_lossy();
    SECRET_STARTS.iter().any(|start| value.starts_with(start))
        || (value.starts_with("eyJ") && value.matches('.').count() == 2)
        || has_password(&value)
        || secrets.iter().any(|secret| value.contains(secret))
}

/// Whether a URL in the value carries `user:password@`.
fn has_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ',', ' ']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn names(pairs: &[(&str, &str)]) -> Vec<String> {
        filtered(host(pairs)).into_iter().filter_map(|(name, _)| name.into_string().ok()).collect()
    }

    #[test]
    fn what_computing_needs_passes() {
        let kept = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("OMP_NUM_THREADS", "4"),
            ("SLURM_JOB_ID", "17"),
            ("https_proxy", "http://proxy:3128"),
            ("I_MPI_ROOT", "/opt/mpi"),
            ("CONDA_PREFIX", "/opt/conda"),
        ];
        assert_eq!(names(&kept).len(), kept.len());
        assert_eq!(names(&[("EDITOR", "vi"), ("LD_PRELOAD", "/x.so"), ("AWS_REGION", "eu")]), [""; 0]);
    }

    #[test]
    fn a_secret_never_passes_even_under_an_allowed_name() {
        let refused = [
            ("OPENAI_API_KEY", "sk-abcdefghijklmnop"),
            ("CONDA_TOKEN", "abc"),
            ("SLURM_JWT", "abc"),
            ("OMP_AUTH", "abc"),
            ("MPI_PASSWORD", "abc"),
            ("cuda_secret", "abc"),
            ("OMP_X", "sk-something"),
            ("JAX_X", "prefix sk-abcdefghijklmnop"),
            ("TERM", "eyJhbGciOi.eyJzdWIi.c2ln"),
            ("HTTPS_PROXY", "http://me:word@proxy:3128"),
        ];
        assert_eq!(names(&refused), [""; 0]);
    }

    #[test]
    fn a_named_variable_passes_whatever_it_looks_like() {
        let environment = for_script(
            host(&[("MY_KEY", "sk-1"), ("OTHER_KEY", "sk-2"), ("MPLBACKEND", "module://inline")]),
            &[],
            &["MY_KEY".to_owned()],
        );
        assert!(environment.contains(&("MY_KEY".into(), "sk-1".into())));
        assert!(!environment.iter().any(|(name, _)| name == "OTHER_KEY"));
        assert!(environment.contains(&("MPLBACKEND".into(), "Agg".into())));
    }

    #[test]
    fn our_directories_come_first_on_the_python_path() {
        let ours = [PathBuf::from("/w/codebase"), PathBuf::from("/w/b:c")];
        let environment = for_script(host(&[("PYTHONPATH", "/site")]), &ours, &[]);
        assert!(environment.contains(&("PYTHONPATH".into(), "/w/codebase:/site".into())));
        let none = for_script(host(&[]), &[], &[]);
        assert!(!none.iter().any(|(name, _)| name == "PYTHONPATH"));
    }
}
