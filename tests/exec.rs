//! Scripts under a real supervisor process.
//!
//! The supervisor and the host that gets killed are this test binary itself, started again with
//! one of the two ignored entry points below.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "exec/sandbox.rs"]
mod sandbox;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cmbagent::exec::sandbox::{Mode, Sandbox};
use cmbagent::exec::supervisor::{Supervised, supervise};
use cmbagent::exec::{Check, ExecError, Execution, Exit, Facts, Function, Package, Runner, Script};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// Not a time under test: only how long a wait may take before it counts as a hang.
const HANG: Duration = Duration::from_secs(60);

fn started_for(entry: &str) -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    arguments.iter().any(|argument| argument == "--exact")
        && arguments.iter().any(|argument| argument == entry)
}

fn entry(name: &str) -> Vec<std::ffi::OsString> {
    let program = std::env::current_exe().unwrap().into_os_string();
    let arguments = ["--ignored", "--exact", name, "--nocapture", "--test-threads=1"];
    std::iter::once(program).chain(arguments.iter().map(Into::into)).collect()
}

#[test]
#[ignore = "entry point of the supervisor processes of the other tests"]
fn supervisor_process() {
    if started_for("supervisor_process") {
        let check = |source: &str, filename: &str| {
            if source == "broken" {
                return Err("no compiler".to_owned());
            }
            Ok(Check {
                error: source.contains("(((").then(|| format!("{filename}: never closed")),
                doc: None,
                functions: vec![Function { signature: "f()".to_owned(), doc: None }],
            })
        };
        std::process::exit(supervise(check, || Ok(Facts { cores: 3, ..Facts::default() }), || Ok(())));
    }
}

#[test]
#[ignore = "entry point of the host process that gets killed"]
fn host_process() {
    if started_for("host_process") {
        let folder = PathBuf::from(std::env::var_os("HOST_FOLDER").unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = script_at(&folder);
        let runner = runner();
        let outcome = runtime.block_on(runner.run(&script, &|_| (), &CancellationToken::new()));
        panic!("the script ended although it sleeps for ever: {outcome:?}");
    }
}

fn runner() -> Supervised {
    Supervised::new(entry("supervisor_process")).with_python("python3")
}

fn script_at(folder: &Path) -> Script {
    Script {
        path: folder.join("codebase/step_1.py"),
        cwd: folder.to_owned(),
        python_path: vec![folder.join("codebase")],
        timeout_seconds: None,
        env_passthrough: Vec::new(),
        log_path: folder.join("logs/step_1.log"),
        sandbox: Sandbox::default(),
    }
}

fn write(folder: &Path, code: &str) -> Script {
    let script = script_at(folder);
    std::fs::create_dir_all(script.path.parent().unwrap()).unwrap();
    std::fs::write(&script.path, code).unwrap();
    script
}

async fn run(runner: &Supervised, script: &Script) -> Execution {
    let cancel = CancellationToken::new();
    tokio::time::timeout(HANG, runner.run(script, &|_| (), &cancel)).await.unwrap().unwrap()
}

/// Waits for a file that a script writes, and returns the pids in it.
fn pids(path: &Path, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let found: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
        if found.len() == count && text.ends_with('\n') {
            return found;
        }
        assert!(begun.elapsed() < HANG, "{} never held {count} pids: {text:?}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn alive(pid: &str) -> bool {
    // A zombie is dead; who should collect it is not our business.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

fn wait_until_gone(pids: &[String]) {
    let begun = Instant::now();
    while pids.iter().any(|pid| alive(pid)) {
        assert!(begun.elapsed() < HANG, "still alive of {pids:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a grandchild in a session of its own, writes its pid and the script's, and sleeps.
const FAMILY: &str = r#"
import os, subprocess, sys, time
code = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nopen('pids', 'a').write(f'{os.getpid()}\\n')\ntime.sleep(600)"
subprocess.run([sys.executable, "-c", code])
while not os.path.exists("pids"): time.sleep(0.01)
open("pids", "a").write(f"{os.getpid()}\n")
print("ready", flush=True)
"#;

#[tokio::test]
async fn exit_states_output_and_log() {
    let folder = tempfile::tempdir().unwrap();
    let runner = runner();
    let script = write(folder.path(), "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)");
    let ended = run(&runner, &script).await;
    assert_eq!((ended.exit.clone(), ended.output.as_str()), (Exit::Code(3), "out\nerr\n"));
    assert!(!ended.exit.success() && !ended.truncated && ended.seconds > 0.0);
    assert_eq!(std::fs::read_to_string(&script.log_path).unwrap(), "out\nerr\n");

    let ended =
        run(&runner, &write(folder.path(), "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")).await;
    assert_eq!(ended.exit, Exit::Signal(11));

    let ended = run(&runner, &write(folder.path(), "def f():\n    return 1 / 0\nf()")).await;
    assert_eq!(ended.exit, Exit::Code(1));
    assert!(ended.output.starts_with("Traceback"), "{}", ended.output);
    assert!(ended.output.contains("codebase/step_1.py\", line 2, in f"), "{}", ended.output);
}

#[tokio::test]
async fn scripts_run_one_after_the_other_under_one_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let runner = runner();
    let code = "import os, helper\nprint(os.getppid(), os.getcwd(), helper.VALUE)";
    let script = write(folder.path(), code);
    std::fs::write(folder.path().join("codebase/helper.py"), "VALUE = 42\n").unwrap();
    let first = run(&runner, &script).await;
    assert_eq!(run(&runner, &script).await.output, first.output);
    assert!(first.output.ends_with(&format!("{} 42\n", folder.path().canonicalize().unwrap().display())));
}

#[tokio::test]
async fn memory_of_a_script_and_its_children_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import time\nblock = b'x' * 80_000_000\ntime.sleep(0.4)";
    let ended = run(&runner(), &write(folder.path(), code)).await;
    assert!(ended.peak_rss.unwrap() > 80_000_000, "{:?}", ended.peak_rss);
}

#[tokio::test]
async fn a_time_limit_ends_the_script_and_shows_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = write(folder.path(), &format!("{FAMILY}\ndef slow():\n    time.sleep(600)\nslow()"));
    script.timeout_seconds = Some(2.5);
    let ended = run(&runner(), &script).await;
    assert_eq!(ended.exit, Exit::Timeout(3));
    assert!(
        ended.output.contains("in slow") && ended.output.contains("KeyboardInterrupt"),
        "{}",
        ended.output
    );
    wait_until_gone(&pids(&folder.path().join("pids"), 2));
}

#[tokio::test]
async fn a_time_limit_ends_a_script_that_ignores_the_interrupt() {
    let folder = tempfile::tempdir().unwrap();
    let code =
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(600)";
    let mut script = write(folder.path(), code);
    script.timeout_seconds = Some(3.0);
    let ended = run(&runner(), &script).await;
    assert_eq!((ended.exit, ended.output.as_str()), (Exit::Timeout(3), "deaf\n"));
}

#[tokio::test]
async fn cancelling_kills_the_script_and_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), &format!("{FAMILY}\ntime.sleep(600)"));
    let (runner, cancel) = (runner(), CancellationToken::new());
    let output = |text: &str| {
        if text.contains("ready") {
            cancel.cancel();
        }
    };
    let ended = tokio::time::timeout(HANG, runner.run(&script, &output, &cancel)).await.unwrap().unwrap();
    assert_eq!(ended.exit, Exit::Cancelled);
    wait_until_gone(&pids(&folder.path().join("pids"), 2));

    let refused = runner.run(&script, &|_| (), &cancel).await;
    assert!(matches!(refused, Err(ExecError::Cancelled)), "{refused:?}");
    assert_eq!(run(&runner, &write(folder.path(), "print('next')")).await.output, "next\n");
}

#[tokio::test]
async fn dropping_the_future_kills_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), &format!("{FAMILY}\ntime.sleep(600)"));
    let (runner, cancel) = (runner(), CancellationToken::new());
    let ready = tokio::sync::Notify::new();
    let output = |_: &str| ready.notify_one();
    tokio::select! {
        ended = runner.run(&script, &output, &cancel) => panic!("{ended:?}"),
        () = ready.notified() => {}
    }
    let found = pids(&folder.path().join("pids"), 2);
    tokio::task::spawn_blocking(move || wait_until_gone(&found)).await.unwrap();
    assert_eq!(run(&runner, &write(folder.path(), "print('next')")).await.output, "next\n");
}

#[tokio::test]
async fn what_a_script_leaves_running_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(&runner(), &write(folder.path(), FAMILY)).await;
    assert_eq!((ended.exit, ended.output.as_str()), (Exit::Code(0), "ready\n"));
    wait_until_gone(&pids(&folder.path().join("pids"), 2));
}

#[test]
fn killing_the_host_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &format!("{FAMILY}\ntime.sleep(600)"));
    let command = entry("host_process");
    let mut host = Command::new(&command[0])
        .args(&command[1..])
        .env("HOST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let found = pids(&folder.path().join("pids"), 2);
    assert!(found.iter().all(|pid| alive(pid)));
    host.kill().unwrap();
    host.wait().unwrap();
    wait_until_gone(&found);
}

#[tokio::test]
async fn a_lost_supervisor_is_told_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = write(folder.path(), &format!("{FAMILY}\nos.kill(os.getppid(), 9)\ntime.sleep(600)"));
    script.sandbox.mode = Mode::Off;
    let (runner, cancel) = (runner(), CancellationToken::new());
    let lost = tokio::time::timeout(HANG, runner.run(&script, &|_| (), &cancel)).await.unwrap();
    let Err(ExecError::Supervisor(words)) = lost else { panic!("{lost:?}") };
    assert!(words.contains("lost") && words.contains("signal: 9"), "{words}");
    wait_until_gone(&pids(&folder.path().join("pids"), 2));
    assert_eq!(run(&runner, &write(folder.path(), "print('next')")).await.output, "next\n");
}

#[tokio::test]
async fn a_supervisor_that_cannot_start_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), "");
    let cancel = CancellationToken::new();
    for (command, words) in [
        (vec!["/nowhere/python3"], "could not be started with /nowhere/python3"),
        (vec!["python3", "-c", "raise SystemExit('no such module')"], "its last words: no such module"),
        (vec![], "no command"),
    ] {
        let runner = Supervised::new(command.into_iter().map(Into::into).collect());
        let outcome = runner.run(&script, &|_| (), &cancel).await;
        let Err(ExecError::Supervisor(told)) = outcome else { panic!("{outcome:?}") };
        assert!(told.contains(words), "{told}");
    }
}

#[tokio::test]
async fn a_script_that_cannot_start_is_told_and_the_supervisor_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), "print('here')");
    let cancel = CancellationToken::new();
    let runner = runner().with_python("/nowhere/python3");
    let outcome = runner.run(&script, &|_| (), &cancel).await;
    let Err(ExecError::Io(told)) = outcome else { panic!("{outcome:?}") };
    assert!(told.contains("/nowhere/python3") && told.contains("step_1.py"), "{told}");
    assert_eq!(runner.facts().await.unwrap().cores, 3);
}

#[tokio::test]
async fn checks_are_answered_while_a_script_runs() {
    let folder = tempfile::tempdir().unwrap();
    let script = write(folder.path(), "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)");
    let (runner, cancel) = (runner(), CancellationToken::new());
    let both = async {
        let check = runner.check("print((( 'é\n", "a.py").await.unwrap();
        std::fs::write(folder.path().join("go"), "").unwrap();
        check
    };
    let (ended, check) = tokio::join!(runner.run(&script, &|_| (), &cancel), both);
    assert_eq!(ended.unwrap().exit, Exit::Code(0));
    assert_eq!(check.error.as_deref(), Some("a.py: never closed"));
    let failed = runner.check("broken", "a.py").await.unwrap_err().to_string();
    assert!(failed.contains("no compiler"), "{failed}");
    assert_eq!(check.functions[0].signature, "f()");
}

#[tokio::test]
async fn a_flood_neither_blocks_nor_fills_memory() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import sys\nprint('first')\nblock = 'x' * 99 + '\\n'\nfor _ in range(1000): sys.stdout.write(block * 800)\nprint('last')";
    let script = write(folder.path(), code);
    let seen = Mutex::new(0);
    let output = |text: &str| *seen.lock().unwrap() += text.len();
    let cancel = CancellationToken::new();
    let ended = tokio::time::timeout(HANG, runner().run(&script, &output, &cancel)).await.unwrap().unwrap();
    assert_eq!(ended.exit, Exit::Code(0));
    assert!(ended.truncated && ended.output.len() < 1_100_000);
    assert!(ended.output.starts_with("first\n") && ended.output.ends_with("last\n"));
    let log = std::fs::metadata(&script.log_path).unwrap().len();
    assert!((64 << 20..(64 << 20) + 200).contains(&log), "{log}");
    assert!((1..80_000_000).contains(&*seen.lock().unwrap()));
}

#[tokio::test]
async fn characters_split_over_writes_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import os, time\nfor byte in 'aé€😀'.encode():\n    os.write(1, bytes([byte])); time.sleep(0.03)\nos.write(1, b'\\xff!')";
    let script = write(folder.path(), code);
    let seen = Mutex::new(String::new());
    let output = |text: &str| seen.lock().unwrap().push_str(text);
    let ended = runner().run(&script, &output, &CancellationToken::new()).await.unwrap();
    assert_eq!(ended.output, "aé€😀\u{fffd}!");
    assert_eq!(*seen.lock().unwrap(), ended.output);
}

#[test]
fn neither_the_script_nor_its_parent_has_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import os\ntry: parent = open(f'/proc/{os.getppid()}/environ').read()\nexcept PermissionError: parent = ''\n\
                print('sk-very-secret' in parent + repr(os.environ), os.environ['MPLBACKEND'], 'PATH' in os.environ)\n\
                print(os.environ.get('LET_ME_KEY'))";
    write(folder.path(), code);
    // A process of its own, for the keys in its environment.
    let command = entry("host_with_keys");
    let host = Command::new(&command[0])
        .args(&command[1..])
        .env("HOST_FOLDER", folder.path())
        .env("OPENAI_API_KEY", "sk-very-secret-1")
        .env("OMP_NUM_THREADS", "sk-very-secret-2")
        .env("LET_ME_KEY", "passed")
        .output()
        .unwrap();
    assert!(host.status.success(), "{}", String::from_utf8_lossy(&host.stderr));
    let log = std::fs::read_to_string(folder.path().join("logs/step_1.log")).unwrap();
    assert_eq!(log, "False Agg True\npassed\n");
}

#[test]
#[ignore = "entry point of the host process that has keys"]
fn host_with_keys() {
    if started_for("host_with_keys") {
        let folder = PathBuf::from(std::env::var_os("HOST_FOLDER").unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut script = script_at(&folder);
        script.env_passthrough = vec!["LET_ME_KEY".to_owned()];
        let ended = runtime.block_on(runner().run(&script, &|_| (), &CancellationToken::new()));
        assert!(ended.unwrap().exit.success());
    }
}

/// A JSON string is a Python string too.
fn literal(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// What the Python side of the supervisor says, asked of a plain interpreter.
fn ask_python(code: &str) -> String {
    let folder = literal(concat!(env!("CARGO_MANIFEST_DIR"), "/python/cmbagent"));
    let whole =
        format!("import sys; sys.path.insert(0, {folder})\nfrom _supervisor import check, facts\n{code}");
    let told = Command::new("python3")
        .args(["-I", "-B", "-c", &whole])
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("SLURM_JOB_ID", "17")
        .env("SLURM_CPUS_PER_TASK", "4")
        .env("SLURM_JOB_END_TIME", "86400")
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}

fn check(source: &str) -> Check {
    let code = format!(
        "sys.stdout.reconfigure(encoding='utf-8')\nprint(check({}, 'codebase/a.py'))",
        literal(source)
    );
    serde_json::from_str(&ask_python(&code)).unwrap()
}

#[test]
fn python_outlines_a_script() {
    let found = check(
        "'''Fit.'''\nimport os\ndef f(x: float, *a, y=1) -> float:\n    '''Doc é\\ud800.'''\nasync def g(): pass\n\
         class C(dict):\n    '''No function.'''\n    def m(self): 'Inner.'\nprint(os.no_such_thing)\n",
    );
    assert_eq!((found.error, found.doc.as_deref()), (None, Some("Fit.")));
    let functions: Vec<_> =
        found.functions.iter().map(|f| (f.signature.as_str(), f.doc.as_deref())).collect();
    let expected =
        [("f(x: float, *a, y=1) -> float", Some("Doc é?.")), ("g()", None), ("C.m(self)", Some("Inner."))];
    assert_eq!(functions, expected);
}

#[test]
fn python_tells_what_does_not_compile() {
    for (source, words) in [
        ("def f(:\n    pass\n", vec!["File \"codebase/a.py\", line 1", "SyntaxError: invalid syntax"]),
        ("x = 1\nif x is 1: pass\n", vec!["line 2", "SyntaxError", "\"is\" with "]),
        ("if 1:\npass\n", vec!["IndentationError"]),
        ("return 1\n", vec!["'return' outside function"]),
        ("x = '\\0'\u{0}\n", vec!["null bytes"]),
    ] {
        let error = check(source).error.unwrap_or_default();
        assert!(words.iter().all(|word| error.contains(word)), "{source:?}: {error}");
    }
}

#[test]
fn python_describes_the_machine() {
    let facts: Facts = serde_json::from_str(&ask_python("print(facts())")).unwrap();
    assert!(facts.python.starts_with("3.") && facts.cores >= 1);
    assert!(facts.memory_bytes.unwrap() > 1 << 20);
    assert!(facts.gpus.is_empty());
    assert_eq!(facts.batch.as_deref(), Some("Slurm job 17, 4 CPUs a task, ends at 1970-01-02 00:00 UTC"));
}

#[test]
fn python_finds_packages_as_scripts_would() {
    let site = tempfile::tempdir().unwrap();
    for name in [
        "NumPy-2.1.0.dist-info",
        "scikit_learn-1.5.dist-info",
        "emcee-3.1-py3.11.egg-info",
        "left_pad-1.dist-info",
    ] {
        std::fs::create_dir(site.path().join(name)).unwrap();
    }
    let code = format!(
        "import os\nos.environ['PYTHONPATH'] = {}\nprint(facts())",
        literal(site.path().to_str().unwrap())
    );
    let facts: Facts = serde_json::from_str(&ask_python(&code)).unwrap();
    let found = |name: &str| {
        facts.packages.iter().find(|(found, _)| found == name).map(|(_, version)| version.as_str())
    };
    assert_eq!(found("numpy"), Some("2.1.0"));
    assert_eq!(found("scikit-learn"), Some("1.5"));
    assert_eq!(found("emcee"), Some("3.1"));
    assert_eq!(found("left-pad"), None);
}

#[test]
fn a_new_runtime_gets_a_new_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let runner = runner();
    let script = write(folder.path(), "import os\nprint(os.getppid())");
    let mut parents = Vec::new();
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(run(&runner, &script));
        parents.push(ended.output.trim().to_owned());
    }
    assert_ne!(parents[0], parents[1]);
    drop(runner);
    wait_until_gone(&parents);
}

#[test]
fn a_fork_of_the_host_does_not_keep_the_supervisor_alive() {
    let folder = tempfile::tempdir().unwrap();
    // A host whose fork inherits the pipe to the supervisor, as `multiprocessing` does.
    let code = "import os, subprocess, sys, time\n\
                p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n\
                while b'ready' not in p.stdout.readline(): pass\n\
                fork = os.fork()\n\
                if not fork: time.sleep(600)\n\
                open('pids', 'w').write(f'{p.pid}\\n{fork}\\n')\n\
                time.sleep(600)";
    let mut host = Command::new("python3")
        .args(["-c", code])
        .args(entry("supervisor_process"))
        .current_dir(folder.path())
        .spawn()
        .unwrap();
    let found = pids(&folder.path().join("pids"), 2);
    host.kill().unwrap();
    host.wait().unwrap();
    wait_until_gone(&found[..1]);
    assert!(alive(&found[1]), "the fork was to hold the pipe all the time");
    assert!(Command::new("kill").arg(&found[1]).status().unwrap().success());
}

#[tokio::test]
async fn an_unusable_time_limit_or_log_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (runner, cancel) = (runner(), CancellationToken::new());
    let mut script = write(folder.path(), "print('here')");
    script.timeout_seconds = Some(-1.0);
    let outcome = runner.run(&script, &|_| (), &cancel).await;
    assert!(matches!(&outcome, Err(ExecError::Io(told)) if told.contains("-1 s")), "{outcome:?}");
    script.timeout_seconds = None;
    script.log_path = folder.path().join("codebase");
    let outcome = runner.run(&script, &|_| (), &cancel).await;
    assert!(matches!(&outcome, Err(ExecError::Io(told)) if told.contains("log file")), "{outcome:?}");
}

#[tokio::test]
async fn the_functions_of_a_traceback_are_looked_up_in_the_installed_library() {
    let temp = tempfile::tempdir().unwrap();
    let library = temp.path().join("site-packages/skylib");
    std::fs::create_dir_all(&library).unwrap();
    std::fs::write(library.join("__init__.py"), "").unwrap();
    std::fs::write(
        library.join("model.py"),
        "class Params:\n    def set_h(self, h):\n        \"\"\"Sets h, in 100 km/s/Mpc.\"\"\"\n        raise ValueError(h)\n",
    )
    .unwrap();
    let at = library.join("model.py").display().to_string();
    let output = format!(
        "Traceback (most recent call last):\n  File \"/w/a.py\", line 3, in <module>\n  File \"{at}\", line 4, in set_h\nValueError: 70"
    );
    // The library is found as a script's own packages are: through the interpreter's path.
    let reader = Redirected(runner(), temp.path().join("site-packages"));
    let cancel = CancellationToken::new();
    let told =
        cmbagent::exec::docstrings::of_traceback(&reader, &output, temp.path(), &cancel).await.unwrap();
    assert_eq!(told, "skylib.model.Params.set_h(self, h)\nSets h, in 100 km/s/Mpc.");
    let none =
        cmbagent::exec::docstrings::of_traceback(&reader, "ValueError: 70", temp.path(), &cancel).await;
    assert_eq!(none.unwrap(), "");
}

/// A runner with one directory more on the path of its scripts.
struct Redirected(Supervised, PathBuf);

impl Runner for Redirected {
    fn check<'a>(&'a self, source: &'a str, name: &'a str) -> BoxFuture<'a, Result<Check, ExecError>> {
        self.0.check(source, name)
    }

    fn facts(&self) -> BoxFuture<'_, Result<Facts, ExecError>> {
        self.0.facts()
    }

    fn run<'a>(
        &'a self,
        script: &'a Script,
        output: &'a (dyn Fn(&str) + Send + Sync),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        Box::pin(async move {
            let script = Script { python_path: vec![self.1.clone()], ..script.clone() };
            self.0.run(&script, output, cancel).await
        })
    }

    fn install<'a>(
        &'a self,
        package: &'a Package,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        self.0.install(package, cancel)
    }
}
