"""Builds `ball.c` with the machine's C compiler on first use, and loads it.

The binary is kept in the user's cache folder, under a name that tells source, flags, machine and compiler apart (it is
built once for each) and ends in a digest of its content: a damaged binary is built anew, not loaded. A folder or a
binary that somebody else owns or may write is never used.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SOURCE = Path(__file__).with_name("ball.c")
HEADER = Path(__file__).with_name("ball.h")
COMPILERS = ("cc", "gcc", "clang")
PRECISIONS = (32, 64)
TIMEOUT = 120  # seconds; a build takes one

# No -ffast-math: it would hide NaN from the comparisons, and at link time it would make the whole process flush
# subnormal numbers. ball.c needs only contraction to fused multiply-adds, its vectors are explicit.
COMPILE_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
# What a compiler may not accept, the most desirable combination first: (when compiling, when linking).
VARIANTS = (
    (("-march=native", "-fopenmp"), ("-fopenmp",)),
    (("-march=native",), ()),
    (("-fopenmp",), ("-fopenmp",)),
    ((), ()),
)

_lock = threading.Lock()
_library: ctypes.CDLL | str | None = None  # None: not tried yet; str: why there is none


def library() -> ctypes.CDLL | str:
    """Return the compiled `ball.c`, or a phrase that says why there is none. Built and loaded once in a process."""
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                _library = _load_or_build()
    return _library


def reset_after_fork() -> None:
    """Forget a lock that another thread of the parent process may have held."""
    global _lock
    _lock = threading.Lock()


def cache_folders() -> list[Path]:
    """Return where a binary may be kept, the preferred folder first."""
    caches = Path("Library/Caches") if sys.platform == "darwin" else Path(".cache")
    return [Path.home() / caches / "mfcdm", Path(tempfile.gettempdir()) / f"mfcdm-{os.getuid()}"]


def _load_or_build() -> ctypes.CDLL | str:
    if not hasattr(os, "getuid"):
        return "it needs a POSIX system"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    prefix = "ball-" + _digest(SOURCE.read_text(), HEADER.read_text(), COMPILE_FLAGS, VARIANTS, _machine())
    if compiler is not None:
        prefix += "-" + _digest(_identity(compiler))
    folders = [folder for folder in cache_folders() if _private_folder(folder)]
    for path in (path for folder in folders for path in sorted(folder.glob(f"{prefix}-*.so"))):
        found = _load(path) if _is_whole(path) else None
        if found is not None:
            return found
    if compiler is None:
        return f"there is no C compiler ({', '.join(COMPILERS)}) on the search path"
    if not folders:
        return f"no cache folder is writable for its user alone ({', '.join(map(str, cache_folders()))})"
    return _build(compiler, folders[0], prefix)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _identity(compiler: str) -> tuple[str, int, int]:
    """Identify the version of a compiler without running it: an update replaces the file."""
    path = os.path.realpath(compiler)
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _machine() -> tuple[str, ...]:
    """Describe what -march=native depends on: the model of the processor and its flags."""
    keys = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features"}
    keys |= {"CPU implementer", "CPU variant", "CPU part"}
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return sys.platform, platform.machine(), platform.processor()
    lines = (line.partition(":") for line in first.splitlines())
    return sys.platform, platform.machine(), *(value for key, _, value in lines if key.strip() in keys)


def _private_folder(folder: Path) -> bool:
    """Create the folder if need be; return whether nobody else may write it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and _is_private(status) and os.access(folder, os.W_OK | os.X_OK)


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_whole(path: Path) -> bool:
    """Return whether a binary is its user's own and has the content that its name promises."""
    try:
        status = path.lstat()
        if not (stat.S_ISREG(status.st_mode) and _is_private(status)):
            return False
        return path.stem.endswith(_digest(path.read_bytes()))
    except OSError:
        return False


def _load(path: Path) -> ctypes.CDLL | None:
    """Load a binary; None if the machine refuses it."""
    try:
        loaded = ctypes.CDLL(str(path))
        for precision in PRECISIONS:
            for function in ("ball_forward", "ball_backward"):
                getattr(loaded, f"{function}_{precision}").argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return loaded


def _build(compiler: str, cache: Path, prefix: str) -> ctypes.CDLL | str:
    """Build with the best flags that give a loadable binary; publish it by a rename, so that builds may race."""
    complaint = ""
    try:
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            for compile_flags, link_flags in VARIANTS:
                built, complaint = _compile_and_link(compiler, Path(folder), compile_flags, link_flags)
                loaded = None if built is None else _load(built)
                if built is not None and loaded is not None:
                    os.replace(built, cache / f"{prefix}-{_digest(built.read_bytes())}.so")
                    return loaded
    except (OSError, subprocess.TimeoutExpired) as error:
        complaint = " ".join(str(error).split())
    return f"{compiler} cannot build ball.c: {complaint or 'its binary cannot be loaded'}"


def _compile_and_link(
    compiler: str, folder: Path, compile_flags: tuple[str, ...], link_flags: tuple[str, ...]
) -> tuple[Path | None, str]:
    """Return the binary, or None and the compiler's first error line."""
    objects = [str(folder / f"ball_{precision}.o") for precision in PRECISIONS]
    binary = folder / "ball.so"
    commands = [
        [compiler, *COMPILE_FLAGS, *compile_flags, f"-DPRECISION={precision}", "-c", str(SOURCE), "-o", target]
        for precision, target in zip(PRECISIONS, objects, strict=True)
    ]
    commands.append([compiler, "-shared", *link_flags, *objects, "-lm", "-o", str(binary)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            return None, lines[0].strip() if lines else f"exit code {done.returncode}"
    binary.chmod(0o700)
    return binary, ""
