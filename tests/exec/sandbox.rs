//! What hostile scripts try, and what ordinary science does.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};

use super::*;

/// Tries things and prints what came of each.
const TRY: &str = r#"
import os, sys
from pathlib import Path
def attempt(name, action):
    try:
        action()
    except OSError as error:
        print(name, "refused", type(error).__name__)
    else:
        print(name, "DONE")
"#;

/// A directory with one beside it that is not the script's.
struct Place {
    folder: tempfile::TempDir,
    outside: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), outside: tempfile::tempdir().unwrap() };
        std::fs::write(place.outside.path().join("mine.txt"), "mine").unwrap();
        place
    }

    /// A script that knows `outside`.
    fn script(&self, code: &str) -> Script {
        let outside = literal(self.outside.path().to_str().unwrap());
        write(self.folder.path(), &format!("{TRY}\noutside = Path({outside})\n{code}"))
    }

    fn untouched(&self) {
        let mine = self.outside.path().join("mine.txt");
        assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(self.outside.path()).unwrap().count(), 1);
    }
}

/// The interpreter by its path, as `sys.executable` gives it.
fn interpreter() -> PathBuf {
    let told = Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output();
    PathBuf::from(String::from_utf8(told.unwrap().stdout).unwrap()).canonicalize().unwrap()
}

/// Runs a script of attempts; none may have succeeded.
async fn refused(script: &Script, count: usize) -> String {
    let ended = run(&runner().with_python(interpreter()), script).await;
    assert_eq!(ended.exit, Exit::Code(0), "{}", ended.output);
    assert!(!ended.output.contains("DONE"), "{}", ended.output);
    assert_eq!(ended.output.matches("refused").count(), count, "{}", ended.output);
    ended.output
}

#[tokio::test]
async fn nothing_outside_can_be_written() {
    let place = Place::new();
    let code = r#"
attempt("new", lambda: (outside / "new").write_text("x"))
attempt("over", lambda: (outside / "mine.txt").write_text("x"))
attempt("append", lambda: open(outside / "mine.txt", "a"))
attempt("truncate", lambda: os.truncate(outside / "mine.txt", 0))
attempt("remove", lambda: (outside / "mine.txt").unlink())
attempt("directory", lambda: (outside / "__pycache__").mkdir())
attempt("pipe", lambda: os.mkfifo(outside / "pipe"))
attempt("move out", lambda: (Path("a").write_text("x"), os.rename("a", outside / "a")))
attempt("move in", lambda: os.rename(outside / "mine.txt", "mine.txt"))
attempt("tmp", lambda: Path("/tmp/cmbagent-escaped").write_text("x"))
attempt("shell", lambda: os.stat(outside / "shell") if os.system(f"touch {outside}/shell") == 0 else open(outside / "none"))
"#;
    refused(&place.script(code), 11).await;
    place.untouched();
}

#[tokio::test]
async fn links_lead_nowhere() {
    let place = Place::new();
    let code = r#"
os.symlink(outside / "mine.txt", "link")
os.symlink(outside, "folder")
attempt("through a link", lambda: Path("link").write_text("x"))
attempt("through a folder", lambda: Path("folder/new").write_text("x"))
attempt("hard link in", lambda: os.link(outside / "mine.txt", "hard"))
attempt("hard link out", lambda: (Path("a").write_text("x"), os.link("a", outside / "a")))
attempt("exchange", lambda: os.replace("link", outside / "mine.txt"))
"#;
    refused(&place.script(code), 5).await;
    place.untouched();
}

#[tokio::test]
async fn other_programs_are_out_of_reach() {
    let place = Place::new();
    let mut bystander = Command::new("sleep").arg("600").env("TOKEN", "secret").spawn().unwrap();
    let pids = format!("[os.getppid(), {}, {}]", std::process::id(), bystander.id());
    let code = format!(
        r#"
for pid in {pids}:
    attempt("environment", lambda: open(f"/proc/{{pid}}/environ").read(1))
    attempt("memory", lambda: open(f"/proc/{{pid}}/mem", "rb"))
    attempt("files", lambda: os.readlink(f"/proc/{{pid}}/fd/0"))
    attempt("root", lambda: os.listdir(f"/proc/{{pid}}/root/"))
    for signal in (9, 15, 19, 0):
        attempt("signal", lambda: os.kill(pid, signal))
"#
    );
    let outcome = tokio::spawn(async move { refused(&place.script(&code), 3 * 8).await }).await;
    assert!(bystander.try_wait().unwrap().is_none(), "it was ended");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    outcome.unwrap();
}

#[tokio::test]
async fn root_cannot_go_behind_the_files() {
    let place = Place::new();
    let code = r#"
def disks():
    for name in os.listdir("/sys/block"):
        open(f"/dev/{name}", "rb")
    raise PermissionError("none")
attempt("disk", disks)
attempt("kernel memory", lambda: open("/proc/kcore", "rb").read(1))
attempt("device", lambda: os.mknod("disk", 0o60600, os.makedev(7, 0)))
attempt("settings", lambda: open("/proc/sys/kernel/core_pattern", "w"))
attempt("chroot", lambda: os.chroot(".") or os.chdir("/"))
"#;
    refused(&place.script(code), 5).await;
}

#[tokio::test]
async fn a_fork_bomb_is_ended() {
    let place = Place::new();
    let code = "import time\nwhile True:\n    try: child = os.fork()\n    except OSError: time.sleep(0.01); continue\n    if not child: time.sleep(600)";
    let mut script = place.script(code);
    script.sandbox.processes = Some(40);
    let ended = run(&runner(), &script).await;
    let Exit::Limit(words) = ended.exit else { panic!("{ended:?}") };
    assert!(words.contains("more than 40 processes"), "{words}");
    let marker = script.path.to_str().unwrap();
    let left: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            line.contains(marker)
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(left.iter().all(|pid| !alive(pid)), "{left:?}");
}

#[tokio::test]
async fn memory_is_bounded_in_one_process_and_in_all_together() {
    let place = Place::new();
    let mut script = place.script("all = [bytearray(50_000_000) for _ in range(100)]");
    script.sandbox.memory_bytes = Some(400_000_000);
    let ended = run(&runner(), &script).await;
    assert_eq!(ended.exit, Exit::Code(1), "{}", ended.output);
    assert!(ended.output.contains("MemoryError"), "{}", ended.output);

    let code = "import time\nfor _ in range(4):\n    if not os.fork():\n        all = os.urandom(150_000_000)\n        time.sleep(600)\ntime.sleep(600)";
    let mut script = place.script(code);
    script.sandbox.memory_bytes = Some(400_000_000);
    let ended = run(&runner(), &script).await;
    let Exit::Limit(words) = ended.exit else { panic!("{ended:?}") };
    assert!(words.contains("400.0 MB of memory"), "{words}");
}

#[tokio::test]
async fn shared_memory_is_memory_too() {
    let place = Place::new();
    let name = format!("/dev/shm/cmbagent-test-{}", std::process::id());
    let code = format!(
        "import time\nwith open({}, 'wb') as file:\n    for _ in range(40): file.write(bytes(10_000_000)); file.flush(); time.sleep(0.01)\ntime.sleep(600)",
        literal(&name)
    );
    let mut script = place.script(&code);
    script.sandbox.memory_bytes = Some(200_000_000);
    let ended = run(&runner(), &script).await;
    std::fs::remove_file(name).unwrap();
    assert!(matches!(&ended.exit, Exit::Limit(words) if words.contains("memory")), "{ended:?}");
}

#[tokio::test]
async fn the_disk_cannot_be_filled_with_one_file_or_many() {
    let place = Place::new();
    let code = "attempt('large', lambda: Path('large').write_bytes(bytes(60_000_000)))";
    let mut script = place.script(code);
    script.sandbox.disk_bytes = Some(50_000_000);
    let ended = run(&runner(), &script).await;
    assert!(ended.output.contains("large refused OSError"), "{}", ended.output);

    let code = "import time\nfor number in range(20): Path(f'{number}').write_bytes(os.urandom(9_000_000))\nos.sync()\ntime.sleep(600)";
    let mut script = place.script(code);
    script.sandbox.disk_bytes = Some(50_000_000);
    let ended = run(&runner(), &script).await;
    assert!(matches!(&ended.exit, Exit::Limit(words) if words.contains("wrote more than")), "{ended:?}");
}

#[tokio::test]
async fn without_a_network_nothing_is_reached_and_with_it_all_is() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let code = format!(
        r#"
import socket
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {}), timeout=5).sendall(b"x"))
attempt("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {})))
"#,
        listener.local_addr().unwrap().port(),
        datagrams.local_addr().unwrap().port()
    );
    let mut script = place.script(&code);
    script.sandbox.network = Some(false);
    let ended = run(&runner(), &script).await;
    assert!(ended.output.contains("connect refused"), "{}", ended.output);
    let complete = ended.confinement.enforced.contains(&"network".to_owned());
    let told = ended.confinement.not_enforced.iter().any(|what| what.contains("network"));
    assert!(complete != told, "{:?}", ended.confinement);
    let mut buffer = [0];
    assert!(!complete || datagrams.recv(&mut buffer).is_err());

    script.sandbox.network = None;
    let ended = run(&runner(), &script).await;
    assert_eq!(ended.output.matches("DONE").count(), 2, "{}", ended.output);
    let mut heard = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"x");
}

#[tokio::test]
async fn strict_reads_python_and_the_work_directory_only() {
    let place = Place::new();
    let code = r#"
import json, ssl, subprocess
attempt("outside", lambda: (outside / "mine.txt").read_text())
attempt("home", lambda: os.listdir(Path.home()))
attempt("shared memory", lambda: Path("/dev/shm/x").write_text("x"))
Path("data.txt").write_text("1")
print(Path("data.txt").read_text(), subprocess.run([sys.executable, "-c", "print(2)"], capture_output=True, text=True).stdout)
"#;
    let mut script = place.script(code);
    // Only a supervisor that has no thread yet can leave the network as an ordinary user; ours is a test.
    (script.sandbox.mode, script.sandbox.network) = (Mode::Strict, Some(true));
    let output = refused(&script, 3).await;
    assert!(output.contains("1 2"), "{output}");
    script.sandbox.read_paths = vec![place.outside.path().to_owned()];
    let ended = run(&runner().with_python(interpreter()), &script).await;
    assert!(
        ended.output.contains("outside DONE") && ended.output.contains("home refused"),
        "{}",
        ended.output
    );
}

#[tokio::test]
async fn named_paths_can_be_written_and_off_confines_nothing() {
    let place = Place::new();
    let mut script = place.script("attempt('new', lambda: (outside / 'new').write_text('x'))");
    script.sandbox.write_paths = vec![place.outside.path().to_owned()];
    assert_eq!(run(&runner(), &script).await.output, "new DONE\n");
    std::fs::remove_file(place.outside.path().join("new")).unwrap();
    script.sandbox = Sandbox { mode: Mode::Off, ..Sandbox::default() };
    let ended = run(&runner(), &script).await;
    assert_eq!(ended.output, "new DONE\n");
    assert!(ended.confinement.not_enforced[0].contains("off"), "{:?}", ended.confinement);

    script.sandbox = Sandbox { write_paths: vec!["/nowhere/at/all".into()], ..Sandbox::default() };
    let outcome = runner().run(&script, &|_| (), &CancellationToken::new()).await;
    assert!(
        matches!(&outcome, Err(ExecError::Confinement(told)) if told.contains("/nowhere/at/all")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn processes_and_shared_memory_work() {
    let place = Place::new();
    let code = r#"
import multiprocessing, subprocess, tempfile
from multiprocessing import shared_memory
def square(number):
    return number * number
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(square, range(4)))
    block = shared_memory.SharedMemory(create=True, size=1000)
    block.buf[0] = 7
    with multiprocessing.Manager() as manager:
        print(block.buf[0], list(manager.list([1])))
    block.close(); block.unlink()
    print(subprocess.run("echo $((1+1)) | cat", shell=True, capture_output=True, text=True).stdout)
    child = subprocess.Popen(["sleep", "600"])
    child.terminate()
    print(child.wait())
    array = bytearray(1_000_000_000)
    array[::4096] = b"x" * len(array[::4096])
    print(len(array), (outside / "mine.txt").read_text(), len(os.listdir(outside)))
    with tempfile.NamedTemporaryFile() as file, open("/dev/null", "w") as sink:
        file.write(b"x")
        print(os.environ["TMPDIR"] == tempfile.gettempdir(), file.name.startswith(os.environ["TMPDIR"]))
"#;
    let ended = run(&runner(), &place.script(code)).await;
    let squares = "[0, 1, 4, 9]\n";
    let wanted = format!("{squares}{squares}7 [1]\n2\n\n-15\n1000000000 mine 1\nTrue True\n");
    assert_eq!((ended.exit, ended.output), (Exit::Code(0), wanted));
}

#[tokio::test]
async fn a_program_that_starts_others_works_as_mpi_does() {
    let place = Place::new();
    let launcher = place.folder.path().join("mpiexec");
    std::fs::write(
        &launcher,
        "#!/bin/sh\nfor rank in 0 1; do OMPI_COMM_WORLD_RANK=$rank \"$@\" & done\nwait\n",
    )
    .unwrap();
    let code = r#"
import stat, subprocess
if "OMPI_COMM_WORLD_RANK" not in os.environ:
    os.chmod("mpiexec", 0o755)
    subprocess.run(["./mpiexec", sys.executable, __file__], check=True)
else:
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    Path(os.environ["TMPDIR"], "session").mkdir(exist_ok=True)
    print("rank " + rank, flush=True)
"#;
    let ended = run(&runner(), &place.script(code)).await;
    assert!(ended.output.contains("rank 0") && ended.output.contains("rank 1"), "{}", ended.output);
}

#[tokio::test]
async fn caches_last_for_a_run_and_go_with_it() {
    let place = Place::new();
    let runner = runner();
    let code = r#"
for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "ASTROPY_CACHE_DIR"):
    file = Path(os.environ[name], "kept")
    print(file.exists(), end=" ")
    file.write_text("x")
print(Path(os.environ["TMPDIR"]).parent)
attempt("packages", lambda: Path(os.environ["TMPDIR"]).parent.joinpath("packages/evil.py").write_text("x"))
"#;
    let script = place.script(code);
    let first = run(&runner, &script).await.output;
    assert!(
        first.starts_with("False False False False False /") && first.contains("packages refused"),
        "{first}"
    );
    let second = run(&runner, &script).await.output;
    assert!(second.starts_with("True True True True True /"), "{second}");
    let scratch = PathBuf::from(second.lines().next().unwrap().rsplit(' ').next().unwrap());
    assert!(scratch.is_dir());
    drop(runner);
    assert!(!scratch.exists());
    assert!(run(&super::runner(), &script).await.output.starts_with("False"));
}

#[tokio::test]
async fn what_is_enforced_is_told() {
    let place = Place::new();
    let told = run(&runner(), &place.script("")).await.confinement;
    assert_eq!(told.mode, "default");
    assert!(told.enforced.iter().any(|what| what.contains("writes outside")), "{told:?}");
    assert!(told.not_enforced.iter().any(|what| what.contains("permissions and times")), "{told:?}");
    assert!(told.network && told.write[0] == place.folder.path().canonicalize().unwrap());
}
