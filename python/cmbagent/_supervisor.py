"""What the supervisor of scripts asks of Python: compiling a script, and describing the machine.

Only the standard library is used, and only a little of it: the supervisor starts with the first
script of every run, and the heavier modules are imported where they are needed. It runs in
isolated mode (``python -I``), so what scripts see beyond it (user site, ``PYTHONPATH``) is looked
up here.
"""

import ast
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

#: Packages worth telling an engineer about, by normalised name.
_NAMES = """
    numpy scipy matplotlib pandas polars sympy astropy scikit-learn scikit-image statsmodels seaborn
    plotly bokeh xarray dask distributed numba cython cupy jax jaxlib flax optax numpyro torch
    torchvision tensorflow keras transformers lightgbm xgboost emcee zeus-mcmc dynesty nautilus-sampler
    ultranest pymc arviz getdist cobaya camb classy classy-sz healpy pymaster pyccl
    colossus hmf halotools nbodykit astroquery astroml lmfit iminuit corner h5py netcdf4 tables zarr
    pyarrow fitsio networkx mpi4py joblib tqdm pillow opencv-python opencv-python-headless requests
    pyyaml sacc pixell fast-pt interpax blackjax einops biopython rdkit ase qutip
"""
PACKAGES = frozenset(_NAMES.split())


def check(source: str, filename: str) -> str:
    """Compile a script without running it, and list what it defines.

    Args:
        source: The text of the script.
        filename: The name that stands in the compiler's messages.

    Returns:
        A JSON object: ``error`` (the compiler's message as Python prints it, or null; a
        ``SyntaxWarning`` counts as an error), ``doc`` (the module's docstring), and ``functions``
        (``signature`` and ``doc`` of the top-level functions and the methods of classes).

    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", SyntaxWarning)
            tree = ast.parse(source, filename)
            compile(source, filename, "exec", dont_inherit=True)
    # Besides syntax: null bytes and lone surrogates, nesting too deep for the compiler.
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        import traceback

        message = "".join(traceback.format_exception_only(error)).strip()
        return _dump({"error": message, "doc": None, "functions": []})
    functions = [
        {"signature": signature, "doc": ast.get_docstring(node)} for signature, node in _functions(tree)
    ]
    return _dump({"error": None, "doc": ast.get_docstring(tree), "functions": functions})


def facts() -> str:
    """Describe the machine as scripts see it.

    Returns:
        A JSON object: ``python`` (version), ``packages`` (installed packages of interest as pairs of
        name and version), ``cores`` (that this process may use), ``memory_bytes`` (the machine's,
        or less where a control group says so), ``gpus`` (names), and ``batch`` (the allocation of
        a batch system in words, or null).

    """
    return _dump(
        {
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "packages": _packages(),
            "cores": _cores(),
            "memory_bytes": _memory(),
            "gpus": _gpus(),
            "batch": _batch(),
        }
    )


def raise_loopback() -> str:
    """Let the processes of a network without a way out reach each other at 127.0.0.1.

    Returns:
        Nothing worth reading.

    Raises:
        OSError: the interface cannot be switched on.

    """
    import fcntl
    import socket
    import struct

    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        name = b"lo".ljust(16, b"\0")
        answer = fcntl.ioctl(handle, get_flags, name + bytes(24))
        (flags,) = struct.unpack_from("h", answer, 16)
        fcntl.ioctl(handle, set_flags, name + struct.pack("h", flags | up) + bytes(22))
    return ""


def _dump(value: object) -> str:
    # Lone surrogates are fine for Python but no text for the reader on the other side.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Signatures and nodes of the top-level functions and the methods of top-level classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _signature(node), node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{_signature(member)}", member


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){result}"


def _packages() -> list[tuple[str, str]]:
    """Installed packages of interest, from the names of their metadata directories.

    Reading those directories' files, as ``importlib.metadata`` does, takes a hundred times longer.
    """
    found: dict[str, str] = {}
    for folder in _script_path():
        try:
            names = [entry.name for entry in Path(folder).iterdir()]
        except OSError:
            continue
        for name in names:
            stem, dot, kind = name.rpartition(".")
            if kind not in ("dist-info", "egg-info") or not dot:
                continue
            package, version, *_ = [*stem.split("-"), "", ""]
            package = package.lower().replace("_", "-").replace(".", "-")
            # The first on the path is the one that is imported.
            if package in PACKAGES and version:
                found.setdefault(package, version)
    return sorted(found.items())


def _script_path() -> list[str]:
    """Name the directories in which a script's imports are looked for, in order."""
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if sys.prefix == sys.base_prefix and not os.environ.get("PYTHONNOUSERSITE"):
        import site

        folders.append(site.getusersitepackages())
    return [*folders, *(folder for folder in sys.path if folder)]


def _cores() -> int:
    """Cores that this process may use: its affinity, less where a control group has a quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for text in _group_files("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def _memory() -> int | None:
    """Bytes of memory: the machine's, or less where a control group says so."""
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (ValueError, OSError):
        limits = []
    for name in ("memory.max", "memory.limit_in_bytes"):
        limits += [int(text) for text in _group_files(name) if text.isdigit()]
    return min((limit for limit in limits if limit > 0), default=None)


def _group_files(name: str) -> Iterator[str]:
    """Read a control file of this process's control group and all groups above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError):
                yield (folder / name).read_text().strip()
            if folder == root:
                break


def _gpus() -> list[str]:
    """Names of the graphics cards that scripts may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return []
    names = []
    for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = card.read_text().splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    names = names or _ask_nvidia()
    chosen = (visible or "").split(",")
    if names and all(index.strip().isdigit() for index in chosen):
        names = [names[int(index)] for index in chosen if int(index) < len(names)]
    return names


def _ask_nvidia() -> list[str]:
    """List the cards that ``nvidia-smi`` names, where the driver has no directory (WSL, containers)."""
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
    # A driver that hangs or complains has no card that a script could use.
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()]


def _batch() -> str | None:
    """Describe the allocation of a batch system and its time limit, in words."""
    env = os.environ
    if "SLURM_JOB_ID" in env:
        parts = [
            f"Slurm job {env['SLURM_JOB_ID']}",
            _told("{} node(s)", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
            _told("{} task(s)", "SLURM_NTASKS"),
            _told("{} CPUs a task", "SLURM_CPUS_PER_TASK"),
            _told("{} CPUs on this node", "SLURM_CPUS_ON_NODE"),
            _told("{} MB of memory a node", "SLURM_MEM_PER_NODE"),
            _told("{} MB of memory a CPU", "SLURM_MEM_PER_CPU"),
            _told("GPUs {}", "SLURM_JOB_GPUS"),
            _ending(env.get("SLURM_JOB_END_TIME", "")),
        ]
    elif "PBS_JOBID" in env:
        parts = [
            f"PBS job {env['PBS_JOBID']}",
            _told("{} node(s)", "PBS_NUM_NODES"),
            _told("{} CPUs a node", "PBS_NUM_PPN"),
            _told("time limit {} s", "PBS_WALLTIME"),
        ]
    elif "LSB_JOBID" in env:
        parts = [f"LSF job {env['LSB_JOBID']}", _told("{} slot(s)", "LSB_DJOB_NUMPROC")]
    else:
        return None
    return ", ".join(part for part in parts if part)


def _told(words: str, *names: str) -> str:
    """Give the words with the first of these variables that is set, or nothing."""
    value = next((os.environ[name] for name in names if os.environ.get(name)), None)
    return words.format(value) if value else ""


def _ending(seconds: str) -> str:
    if not seconds.isdigit():
        return ""
    import time

    return time.strftime("ends at %Y-%m-%d %H:%M UTC", time.gmtime(int(seconds)))
