//! Why a script failed and what to do about it, computed from its exit state and traceback.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

use super::FailedAttempt;
use crate::exec::Exit;
use crate::pattern::pattern;

/// The kind of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An import found no module: its top-level name and the package that provides it.
    MissingModule {
        /// The name in the import statement.
        module: String,
        /// The name under which it is installed.
        package: String,
    },
    /// An error inside one of the domain libraries whose documentation helps.
    Library(String),
    /// The wall-clock limit was reached.
    Timeout,
    /// Memory ran out, or the system killed the script.
    Memory,
    /// A path may not be written or read.
    Permission,
    /// A file that the script reads is not there.
    MissingFile,
    /// The script does not compile.
    Syntax,
    /// It was ended for what it took of the machine.
    Limit,
    /// The run was stopped.
    Cancelled,
    /// Anything else.
    Other,
}

/// A failure's cause and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The kind.
    pub kind: Kind,
    /// The cause in one sentence.
    pub cause: String,
    /// What to do in one sentence.
    pub advice: String,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.cause, self.advice)
    }
}

/// The limits under which a script ran.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Wall-clock limit in seconds.
    pub timeout_seconds: Option<f64>,
    /// Memory limit or memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Directories scripts may write to.
    pub writable: Vec<String>,
    /// Seconds the script ran.
    pub elapsed_seconds: f64,
}

static ERROR: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:[A-Za-z_]\w*\.)*(_*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)|Exception)(?::.*)?$")
});
static MODULE: LazyLock<Regex> = LazyLock::new(|| pattern(r"No module named '([^']+)'"));
static FRAME: LazyLock<Regex> = LazyLock::new(|| pattern(r#"^\s*File "([^"]+)", line \d+"#));
static QUOTED: LazyLock<Regex> = LazyLock::new(|| pattern(r"'([^']+)'\s*$"));
static VOLATILE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"0x[0-9a-fA-F]+|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"));

const TRACEBACK: &str = "Traceback (most recent call last):";

/// Import names whose package is called otherwise.
const PACKAGES: [(&str, &str); 11] = [
    ("cv2", "opencv-python"),
    ("sklearn", "scikit-learn"),
    ("skimage", "scikit-image"),
    ("yaml", "pyyaml"),
    ("PIL", "pillow"),
    ("bs4", "beautifulsoup4"),
    ("dateutil", "python-dateutil"),
    ("Crypto", "pycryptodome"),
    ("fitz", "pymupdf"),
    ("serial", "pyserial"),
    ("umap", "umap-learn"),
];

/// Libraries whose errors mostly come from a wrong call.
const LIBRARIES: [&str; 5] = ["camb", "classy", "classy_sz", "cobaya", "healpy"];

/// The package that provides the module `name`.
pub fn package_of(name: &str) -> &str {
    let top = name.split('.').next().unwrap_or(name);
    PACKAGES.iter().find(|(module, _)| *module == top).map_or(top, |(_, package)| *package)
}

/// The line of `output` that states the exception, such as `ValueError: bad shape`: what follows the
/// frames of the last traceback, else the last line in the form of an exception.
pub fn error_line(output: &str) -> Option<&str> {
    let raised = output.rsplit_once(TRACEBACK).and_then(|(_, rest)| {
        rest.lines().skip(1).find(|l| !l.trim().is_empty() && !l.starts_with(char::is_whitespace))
    });
    raised.map(str::trim_end).or_else(|| output.lines().rev().map(str::trim_end).find(|l| ERROR.is_match(l)))
}

/// Diagnoses a script that ended as `exit` and printed `output`.
pub fn diagnose(exit: &Exit, output: &str, limits: &Limits) -> Diagnosis {
    let error = error_line(output);
    let made = |kind, cause: String, advice: &str| Diagnosis { kind, cause, advice: advice.to_owned() };
    match exit {
        Exit::Cancelled => {
            return made(Kind::Cancelled, "The run was stopped.".into(), "Resume the run to try again.");
        }
        Exit::Timeout(limit) => {
            let last = output.lines().rev().find(|l| !l.trim().is_empty());
            let last = last.map_or_else(
                || "it had printed nothing".to_owned(),
                |l| format!("last it printed: {}", l.trim()),
            );
            return made(
                Kind::Timeout,
                format!(
                    "The script was stopped at its limit of {limit} s after {:.0} s; {last}.",
                    limits.elapsed_seconds
                ),
                "Do less: vectorise, fewer samples or a coarser grid, or split the work and say what remains.",
            );
        }
        Exit::Limit(what) => {
            return made(
                Kind::Limit,
                format!("The script was ended because {what}."),
                "Take less of the machine at once: chunks, smaller arrays and files, fewer processes.",
            );
        }
        Exit::Signal(9) => return made(Kind::Memory, killed(limits), MEMORY_ADVICE),
        Exit::Signal(number) if error.is_none() => {
            return made(
                Kind::Other,
                format!("The script was ended by signal {number}{}.", signal_name(*number)),
                "A compiled library crashed: call it with smaller or checked input, or use another one.",
            );
        }
        Exit::Signal(_) | Exit::Code(_) => {}
    }
    let Some(error) = error else {
        return made(
            Kind::Other,
            format!("The script ended with {} and no traceback.", ended(exit)),
            "Let errors raise so that their traceback is shown.",
        );
    };
    from_error(error, output, limits)
}

const MEMORY_ADVICE: &str = "Hold less at once: chunks, smaller dtypes, fewer processes.";

fn from_error(error: &str, output: &str, limits: &Limits) -> Diagnosis {
    let made = |kind, cause: String, advice: &str| Diagnosis { kind, cause, advice: advice.to_owned() };
    let name = error.split(':').next().and_then(|n| n.rsplit('.').next()).unwrap_or_default().trim();
    let cause = format!("{}.", error.trim_end_matches('.'));
    match name {
        "ModuleNotFoundError" | "ImportError" if MODULE.is_match(error) => {
            let module = MODULE.captures(error).map_or_else(String::new, |c| c[1].to_owned());
            let package = package_of(&module).to_owned();
            made(
                Kind::MissingModule { module, package: package.clone() },
                format!("{cause} The package {package} is not installed."),
                "Use an installed package instead; modules of earlier steps are imported by their bare name.",
            )
        }
        "MemoryError" | "_ArrayMemoryError" => {
            made(Kind::Memory, format!("{cause} {}", killed(limits)), MEMORY_ADVICE)
        }
        "PermissionError" => {
            let path = QUOTED.captures(error).map(|c| format!(" The path {} is out of bounds.", &c[1]));
            let writable = if limits.writable.is_empty() {
                String::new()
            } else {
                format!(" Scripts may write below: {}.", limits.writable.join(", "))
            };
            made(
                Kind::Permission,
                format!("{cause}{}{writable}", path.unwrap_or_default()),
                "Write products under `data/` only and read input where it is.",
            )
        }
        "FileNotFoundError" => made(
            Kind::MissingFile,
            cause,
            "Take the path from the task or from the list of files; never make up the data.",
        ),
        "SyntaxError" | "IndentationError" | "TabError" => {
            made(Kind::Syntax, cause, "Give the whole script again with the line repaired.")
        }
        _ => match library(output) {
            Some(library) => made(
                Kind::Library(library.to_owned()),
                format!("{cause} It was raised inside {library}."),
                "Call it as its docstrings say: argument names, units and order of calls of the installed version.",
            ),
            None => made(Kind::Other, cause, "Find the cause in the lines that the traceback names."),
        },
    }
}

/// The domain library in which the deepest frame outside the script lies.
fn library(output: &str) -> Option<&'static str> {
    let last = output.lines().rev().find_map(|l| FRAME.captures(l).map(|c| c[1].to_owned()))?;
    LIBRARIES.into_iter().find(|l| last.split(['/', '\\']).any(|part| part.trim_end_matches(".py") == *l))
}

fn killed(limits: &Limits) -> String {
    match limits.memory_bytes {
        Some(bytes) => format!("Memory ran out; there are {}.", super::carry::size(bytes)),
        None => "The system killed the script, most likely because memory ran out.".to_owned(),
    }
}

/// How a script ended, in words, for prompts and messages.
pub fn ended(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(number) => format!("killed by signal {number}{}", signal_name(*number)),
        Exit::Timeout(seconds) => format!("stopped after {seconds} s"),
        Exit::Limit(what) => format!("ended because {what}"),
        Exit::Cancelled => "stopped with the run".to_owned(),
    }
}

fn signal_name(number: i32) -> &'static str {
    match number {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 => " (bus error)",
        8 => " (arithmetic)",
        9 => " (kill)",
        11 => " (segmentation fault)",
        15 => " (termination)",
        _ => "",
    }
}

/// Whether two attempts failed alike: same end and same error once numbers and addresses are left out.
pub fn same_failure(a: &FailedAttempt, b: &FailedAttempt) -> bool {
    signature(a) == signature(b)
}

fn signature(attempt: &FailedAttempt) -> (String, String) {
    let error = error_line(&attempt.output).map(str::to_owned);
    let told =
        error.or_else(|| attempt.output.lines().rev().find(|l| !l.trim().is_empty()).map(str::to_owned));
    let plain = |text: &str| VOLATILE.replace_all(text, "#").trim().to_lowercase();
    // Two exit statuses differ in their number, so only the error's text loses its numbers.
    (attempt.ended.to_lowercase(), plain(&told.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(ended: &str, output: &str) -> FailedAttempt {
        FailedAttempt { ended: ended.into(), output: output.into(), ..FailedAttempt::default() }
    }

    #[test]
    fn kinds_by_exit_state_and_traceback() {
        let limits =
            Limits { memory_bytes: Some(16_000_000_000), writable: vec!["data".into()], ..Limits::default() };
        let kind = |exit, out: &str| diagnose(&exit, out, &limits).kind;
        let missing = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'cv2'";
        assert_eq!(
            kind(Exit::Code(1), missing),
            Kind::MissingModule { module: "cv2".into(), package: "opencv-python".into() }
        );
        assert_eq!(kind(Exit::Timeout(60), "step 3"), Kind::Timeout);
        assert_eq!(kind(Exit::Signal(9), ""), Kind::Memory);
        assert_eq!(
            kind(Exit::Code(1), "numpy.core._exceptions._ArrayMemoryError: x\nMemoryError"),
            Kind::Memory
        );
        assert_eq!(
            kind(Exit::Code(1), "PermissionError: [Errno 13] Permission denied: '/etc/x'"),
            Kind::Permission
        );
        let camb = "Traceback (most recent call last):\n  File \"/w/step_1.py\", line 3, in <module>\n  File \"/v/lib/camb/model.py\", line 9, in f\nValueError: bad";
        assert_eq!(kind(Exit::Code(1), camb), Kind::Library("camb".into()));
        assert_eq!(kind(Exit::Code(2), "nothing"), Kind::Other);
        let numpy = "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 8 TiB";
        assert_eq!(kind(Exit::Code(1), numpy), Kind::Memory);
    }

    #[test]
    fn the_last_traceback_states_the_error() {
        let output = "Traceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: 'x'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 3\n    go()\n    ^^^^\nrequests.exceptions.Timeout: too slow\nsecond line\n";
        assert_eq!(error_line(output), Some("requests.exceptions.Timeout: too slow"));
        assert_eq!(
            error_line("  File \"a.py\", line 1\nSyntaxError: invalid syntax\n"),
            Some("SyntaxError: invalid syntax")
        );
        assert_eq!(error_line("all is well: Exit\n"), None);
    }

    #[test]
    fn messages_name_cause_and_remedy() {
        let limits = Limits { writable: vec!["data".into()], elapsed_seconds: 60.2, ..Limits::default() };
        let text =
            diagnose(&Exit::Code(1), "PermissionError: [Errno 13] Permission denied: '/etc/x'", &limits)
                .to_string();
        assert!(text.contains("/etc/x") && text.contains("below: data"), "{text}");
        let text = diagnose(&Exit::Timeout(60), "epoch 3\n", &limits).to_string();
        assert!(text.contains("60 s") && text.contains("epoch 3"), "{text}");
    }

    #[test]
    fn alike_but_for_numbers() {
        let a = failed("exit status 1", "ValueError: shape 3 at 0x7f01");
        let b = failed("exit status 1", "text\nValueError: shape 12 at 0x8801");
        let c = failed("exit status 1", "KeyError: 'x'");
        assert!(same_failure(&a, &b));
        assert!(!same_failure(&a, &c));
        assert!(!same_failure(&a, &failed("killed by signal 9", "ValueError: shape 3 at 0x7f01")));
    }
}
