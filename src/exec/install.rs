//! A missing package, for the scripts of one run.
//!
//! `pip` is asked what the package needs beyond what is installed, and then puts exactly that where only
//! this run's scripts find it: the user's Python stays as it is, and nothing in it is hidden by another
//! version. Both happen in the sandbox of scripts. A wheel is unpacked and none of its code runs.

use std::ffi::OsString;
use std::path::Path;

use serde_json::json;

use super::{Package, Script};

/// Seconds an installation may take.
const SECONDS: f64 = 900.0;

const INSTALLER: &str = r#"
import json, subprocess, sys

def pip(*arguments, **options):
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input",
               "--no-cache-dir", "--retries", "1", "--timeout", "15", "install", *arguments]
    ended = subprocess.run(command, text=True, **options)
    if ended.returncode:
        sys.exit(ended.returncode)
    return ended.stdout

kinds = [] if SOURCES else ["--only-binary", ":all:"]
report = json.loads(pip("--quiet", "--dry-run", "--report", "-", *kinds, PACKAGE, stdout=subprocess.PIPE))
wanted = [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in report["install"]]
if not wanted:
    sys.exit(f"{PACKAGE} is installed already, but does not provide the module")
pip("--quiet", "--no-deps", "--target", TARGET, *kinds, *wanted)
print("installed", *wanted)
"#;

/// The script that installs a package into `target`; it lies in `place`.
pub(super) fn script(package: &Package, place: &Path, target: &Path) -> Result<Script, std::io::Error> {
    let path = place.join("install.py");
    let literal = |text: &str| json!(text).to_string();
    let sources = if package.sources { "True" } else { "False" };
    let values = format!(
        "PACKAGE, TARGET, SOURCES = {}, {}, {sources}",
        literal(&package.name),
        literal(&target.to_string_lossy())
    );
    std::fs::write(&path, format!("{values}\n{INSTALLER}"))?;
    let settings = std::env::vars_os().filter(|(name, value)| passes(name, value, package.sources));
    Ok(Script {
        path,
        cwd: target.to_owned(),
        python_path: Vec::new(),
        timeout_seconds: Some(SECONDS),
        env_passthrough: settings.filter_map(|(name, _)| name.into_string().ok()).collect(),
        log_path: place.join("install.log"),
        sandbox: package.sandbox.clone(),
    })
}

/// Whether pip gets a variable: its own settings, and a proxy. An address with a password in it is kept
/// from code that a package brings along.
fn passes(name: &OsString, value: &OsString, sources: bool) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    let ours = name.starts_with("PIP_") || name.ends_with("_PROXY");
    ours && !(sources && value.to_string_lossy().contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_a_password_are_kept_from_code_of_packages() {
        let passes = |name: &str, value: &str, sources| passes(&name.into(), &value.into(), sources);
        assert!(passes("PIP_INDEX_URL", "https://me:word@index/simple", false));
        assert!(!passes("PIP_INDEX_URL", "https://me:word@index/simple", true));
        assert!(passes("PIP_INDEX_URL", "https://index/simple", true));
        assert!(passes("https_proxy", "http://proxy:3128", true));
        assert!(!passes("OPENAI_API_KEY", "sk-1", false));
    }
}
