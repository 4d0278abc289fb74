"""Object code is compiled once, kept where only its user may write, used only if it is right."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from llvmlite import binding
from test_structure import MODULES, ROOT, imports_of, path_of

from codegen_cli.engine_cpu.compile import kernel_cache, kernel_directory
from codegen_cli.engine_cpu.compile.kernel_compiler import N_FUNCTIONS
from codegen_cli.engine_cpu.compile.linker import ALLOWED_SYMBOLS, ForeignCode, link
from codegen_cli.engine_cpu.compile.object_file import undefined_symbols
from codegen_cli.machine import cpu, places
from codegen_cli.session.kernel_delay import KernelDelay

ENTRY = "define i64 @codegen_run_step(ptr %table, i64 %thread) {{ {} }}\n"


def object_code(llvm_ir: str, triple: str | None = None) -> bytes:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(triple or binding.get_default_triple())
    machine = target.create_target_machine(reloc="pic", codemodel="small")
    return machine.emit_object(binding.parse_assembly(llvm_ir))


class Compiles(Exception):
    """What these tests raise when load_step is about to spend seconds on compiling."""


def load(on_delay: kernel_cache.OnDelay = lambda delay: None) -> object:
    def refuse(delay: kernel_cache.Delay) -> None:
        on_delay(delay)
        raise Compiles(delay)

    return kernel_cache.load_step(refuse)


@pytest.fixture
def cache(compiled_kernels: None, home: Path, tmp_path: Path, monkeypatch) -> Path:
    """The directory of a cache of our own, which has what this machine needs."""
    shutil.copytree(home / "cache" / "kernels", tmp_path / "cache" / "kernels")
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    return tmp_path / "cache" / "kernels"


def store(cache: Path, data: bytes) -> None:
    """Put an object into the cache as if it had been compiled here."""
    [pointer] = cache.glob("*.sha256")
    digest = hashlib.sha256(data).hexdigest()
    (cache / f"{digest}.o").write_bytes(data)
    pointer.write_text(f"{digest}  {digest}.o\n")


def test_a_cached_step_is_loaded_without_numba(cache: Path) -> None:
    script = (
        "import sys\n"
        "from codegen_cli.engine_cpu.compile import kernel_cache\n"
        "kernel_cache.load_step(lambda delay: sys.exit(delay.kind))\n"
        "print('numba' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_a_completion_from_a_warm_cache_never_imports_numba(cache: Path, codegen) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "codegen_cli", "complete", "-n", "2", "x"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "llvmlite" in result.stderr
    assert not re.search(r"\| +numba\b", result.stderr)


def test_files_of_other_releases_and_cpus_are_told_from_those_in_use(cache: Path) -> None:
    in_use = set(cache.iterdir())
    assert kernel_cache.unused_files() == []
    others = [cache / name for name in ("0f.o", "1f.sha256", "2f.sha256abc", "3f.lock")]
    for other in others:
        other.write_bytes(b"x")
    assert kernel_cache.unused_files() == others
    [pointer] = (path for path in in_use if path.suffix == ".sha256")
    pointer.write_bytes(b"\xff")  # what it should name is not known then: all objects can go
    lock = pointer.with_suffix(".lock")
    assert set(kernel_cache.unused_files()) == {*others, *in_use} - {pointer, lock}
    cache.chmod(0o777)
    assert kernel_cache.unused_files() == []


def test_the_object_calls_nothing_but_the_c_library(cache: Path) -> None:
    [file] = cache.glob("*.o")
    assert undefined_symbols(file.read_bytes()) <= ALLOWED_SYMBOLS


def test_the_file_of_digests_is_one_for_sha256sum(cache: Path) -> None:
    [pointer] = cache.glob("*.sha256")
    digest, name = pointer.read_text().split()
    assert name == f"{digest}.o"
    assert hashlib.sha256((cache / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("part", ["*.o", "*.sha256"])
@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "flipped", "a directory"])
def test_damaged_files_are_not_used(cache: Path, part: str, damage: str) -> None:
    [file] = cache.glob(part)
    data = file.read_bytes()
    file.unlink()
    if damage == "a directory":
        file.mkdir()
    elif damage != "removed":
        flipped = bytes([data[0] ^ 1]) + data[1:]
        file.write_bytes({"emptied": b"", "cut": data[:-20], "flipped": flipped}[damage])
    with pytest.raises(Compiles):
        load()


@pytest.mark.skipif(os.name == "nt", reason="modes and owners as POSIX has them")
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_may_write_is_not_used(cache: Path, mode: int) -> None:
    cache.chmod(mode)
    with pytest.raises(Compiles):
        load()
    cache.chmod(0o700)
    load()


def test_a_directory_reached_through_a_link_is_not_used(cache: Path) -> None:
    elsewhere = cache.with_name("elsewhere")
    cache.rename(elsewhere)
    cache.symlink_to(elsewhere)
    with pytest.raises(Compiles):
        load()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user_is_not_used(cache: Path) -> None:
    os.chown(cache, 12345, -1)
    with pytest.raises(Compiles):
        load()


def test_code_that_calls_more_than_it_may_is_not_linked(cache: Path) -> None:
    call = "%code = call i32 @system(ptr %table) ret i64 0"
    store(cache, object_code("declare i32 @system(ptr)\n" + ENTRY.format(call)))
    with pytest.raises(Compiles):
        load()


def test_code_without_the_step_is_not_linked(cache: Path) -> None:
    store(cache, object_code("define i64 @something_else() { ret i64 0 }\n"))
    with pytest.raises(Compiles):
        load()


@pytest.mark.parametrize("name", ["numba", "llvmlite"])
def test_another_release_of_the_compiler_needs_new_code(
    cache: Path, name: str, tmp_path: Path, monkeypatch
) -> None:
    load()
    release = tmp_path / "site" / name / "_version.py"
    release.parent.mkdir(parents=True)
    (release.parent / "__init__.py").touch()
    release.write_text("another")
    script = (
        "import sys\n"
        "from codegen_cli.engine_cpu.compile import kernel_cache\n"
        "from codegen_cli.machine import cpu\n"
        "cpu.target()  # imports the real llvmlite\n"
        f"sys.modules.pop({name!r}, None)\n"
        f"sys.path.insert(0, {str(release.parent.parent)!r})\n"
        "kernel_cache.load_step(lambda delay: sys.exit(delay.kind))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stderr == "compiling\n"


# What somebody may have set for a numba of their own: our kernels are the same all the same.
FOR_ANOTHER_NUMBA = {"NUMBA_OPT": "0", "NUMBA_CPU_NAME": "generic", "NUMBA_DISABLE_JIT": "1"}


def settings_for_another_numba(directory: Path) -> Path:
    (directory / ".numba_config.yaml").write_text("disable_jit: 1\nopt: 0\ncpu_name: generic\n")
    return directory


def start(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "codegen_cli", "complete", "-m", "nano", *arguments, "x"]
    environment = os.environ | FOR_ANOTHER_NUMBA | {"CODEGEN_HOME": str(home)}
    settings_for_another_numba(home)
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_of_processes_that_start_at_once_one_compiles_and_the_others_wait_for_it(
    compiled_kernels: None, home: Path, tmp_path: Path, codegen
) -> None:
    usual = (home / "cache" / "kernels").glob("*.o")
    processes = [start(tmp_path, "--json", "-t", "0", "-n", "4") for _ in range(3)]
    ends = [process.communicate(timeout=600) for process in processes]
    told = sorted(stderr.decode().splitlines()[0] for _, stderr in ends)
    compiling, *waiting = [line.removeprefix("codegen: ") for line in reversed(told)]
    assert compiling == "compiling kernels for this CPU, 20 to 60 s, once"
    assert waiting == ["another process is compiling the kernels for this CPU: waiting for it"] * 2
    texts = {json.loads(stdout)["choices"][0]["text"] for stdout, _ in ends}
    assert len(texts) == 1
    third = codegen("complete", "-n", "1", "x", CODEGEN_HOME=str(tmp_path))
    assert third.returncode == 0
    assert b"compiling" not in third.stderr
    directory = tmp_path / "cache" / "kernels"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert sorted(path.suffix for path in directory.iterdir()) == [".lock", ".o", ".sha256"]
    assert {path.name for path in directory.glob("*.o")} <= {path.name for path in usual}


# --- where nothing can be kept --------------------------------------------------------------------

IN_MEMORY = """
import json, sys
import codegen_cli
from codegen_cli.engine_cpu.compile import kernel_cache

told = []
step = kernel_cache.load_step(told.append)
kernel_cache.load_step = lambda on_delay: step
with codegen_cli.load("nano") as model:
    text = model.complete("def fib(n):", temperature=0, max_tokens=8)
first = told[0]
print(json.dumps({
    "text": text,
    "kinds": sorted({delay.kind for delay in told}),
    "obstacle": [first.obstacle.message, first.obstacle.hint],
    "steps": [delay.done for delay in told],
    "total": told[-1].total,
    "imports numba": "numba" in sys.modules,
}))
"""


def test_kernels_that_cannot_be_kept_are_compiled_in_memory_and_run(
    codegen, compiled_kernels: None, tmp_path: Path
) -> None:
    (tmp_path / "cache").touch()  # not a directory
    ran = subprocess.run(
        [sys.executable, "-c", IN_MEMORY],
        cwd=settings_for_another_numba(tmp_path),
        env=os.environ | FOR_ANOTHER_NUMBA | {"CODEGEN_HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    told = json.loads(ran.stdout)
    assert not told["imports numba"]
    kept = codegen("complete", "-q", "-m", "nano", "-t", "0", "-n", "8", "def fib(n):")
    assert told["text"] == kept.stdout.decode() != ""
    assert told["kinds"] == ["compiling"]
    message, hint = told["obstacle"]
    assert message == f"cannot write to {tmp_path}/cache/kernels: Not a directory"
    assert "CODEGEN_HOME" in hint
    # How far it is, is told truly: of each function once, and the last ones too.
    n_functions = N_FUNCTIONS if cpu.kernel_path() != "generic" else 120
    assert told["steps"] == list(range(n_functions + 1))
    assert told["total"] > N_FUNCTIONS


def foreign(place: Path) -> None:
    os.chown(place, 12345, -1)


def linked(place: Path) -> None:
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


@pytest.mark.skipif(os.name == "nt", reason="modes and owners as POSIX has them")
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda place: place.chmod(0o777), "others can write to {} (chmod 700 closes it, or"),
        (linked, "{} is a link ("),
        pytest.param(
            foreign,
            "{} belongs to another user (",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
        ),
    ],
    ids=["open to others", "a link", "of another user"],
)
def test_a_directory_that_is_not_ours_alone_is_named_with_the_cure(
    cache: Path, capsys: pytest.CaptureFixture[str], spoil, told: str
) -> None:
    spoil(cache)
    with KernelDelay() as on_delay, pytest.raises(Compiles):
        load(on_delay)
    [line] = capsys.readouterr().err.splitlines()
    start = "codegen: compiling kernels for this CPU, 20 to 60 s, at every start: "
    assert line.startswith(start + told.format(cache))
    assert "CODEGEN_HOME chooses another place)" in line
    assert "once" not in line


def test_a_disk_without_room_is_found_out_before_compiling(cache: Path, monkeypatch) -> None:
    for file in cache.iterdir():
        file.unlink()

    def full(**where: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kernel_directory.tempfile, "TemporaryFile", full)
    with pytest.raises(Compiles) as raised:
        load()
    obstacle = raised.value.args[0].obstacle
    assert obstacle.message == f"cannot write to {cache}: {os.strerror(errno.ENOSPC)}"


# --- whose turn it is -----------------------------------------------------------------------------

HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """The lock of this state of things in an empty home, held by another process."""
    place = tmp_path / "cache" / "kernels" / f"{kernel_cache._key()}.lock"
    place.parent.mkdir(parents=True, mode=0o700)
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield place, holder
        holder.kill()


def test_a_worker_that_dies_is_followed_by_the_next(held) -> None:
    place, holder = held
    with kernel_directory.turn(place, on_wait=holder.kill):
        assert holder.wait(timeout=60) != 0


def test_a_worker_that_shows_no_life_is_not_waited_for(held, monkeypatch) -> None:
    place, holder = held
    monkeypatch.setattr(kernel_directory, "STUCK_SECONDS", 0.1)
    waits = []
    with kernel_directory.turn(place, on_wait=lambda: waits.append(1)):
        assert holder.poll() is None
    assert waits == [1]


def test_a_worker_that_shows_life_is_waited_for(held, monkeypatch) -> None:
    place, holder = held
    monkeypatch.setattr(kernel_directory, "STUCK_SECONDS", 3.0)
    stop = threading.Event()

    def live_for_a_while() -> None:
        for _ in range(25):
            os.utime(place)
            if stop.wait(0.2):
                return
        holder.stdin.close()

    with kernel_directory.turn(place, on_wait=threading.Thread(target=live_for_a_while).start):
        stop.set()
        assert holder.wait(timeout=60) == 0


def test_where_nothing_can_be_locked_the_work_is_done_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.lock").mkdir()
    with kernel_directory.turn(tmp_path / "x.lock", on_wait=pytest.fail) as show_life:
        show_life()
    with kernel_directory.turn(tmp_path / "no" / "x.lock", on_wait=pytest.fail) as show_life:
        show_life()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_the_wait(held, tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert b"another process is compiling" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def test_max_time_ends_the_wait(held, codegen, tmp_path: Path) -> None:
    home = str(tmp_path)
    result = codegen("complete", "-m", "nano", "--max-time", "3", "x", CODEGEN_HOME=home)
    assert (result.returncode, result.stdout) == (0, b"")


# --- what is shown meanwhile ----------------------------------------------------------------------

SHOW = """
from codegen_cli.engine_cpu.compile.kernel_cache import Delay
from codegen_cli.machine import places
from codegen_cli.session.kernel_delay import KernelDelay

with KernelDelay() as on_delay:
    on_delay(Delay("waiting"))
    on_delay(Delay("compiling"))
    for done in range(1, 95):
        on_delay(Delay("compiling", None, done, 94))
on_delay(Delay("waiting"))  # by a thread that was left behind
"""
LINES = [
    "codegen: another process is compiling the kernels for this CPU: waiting for it",
    "codegen: compiling kernels for this CPU, 20 to 60 s, once",
]


def test_a_log_gets_a_line_and_no_bar() -> None:
    ran = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == LINES


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    import pty

    ours, its = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-c", SHOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, env=environment) as process:
        os.close(its)
        shown = ""
        with contextlib.suppress(OSError):  # the end, on Linux
            while part := os.read(ours, 65536):
                shown += part.decode()
        os.close(ours)
        assert process.stdout.read() == b""
    assert process.returncode == 0
    assert all(line in shown for line in LINES)
    bar = shown.rindex("compiling kernels \x1b")  # and the bar in its colours
    assert "━" in shown[bar:]
    assert shown.rindex("\x1b[2K") > bar  # the line is erased
    assert shown.rindex("\x1b[?25h") > bar  # and the cursor there again


TRIPLES = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "arm64-apple-darwin",
)
CALLER = """
declare ptr @memset(ptr, i32, i64)
declare float @fmaf(float, float, float)
@data = external global i64
define i64 @entry(ptr %p, float %x) {
  %a = call ptr @memset(ptr %p, i32 0, i64 8)
  %b = call float @fmaf(float %x, float %x, float %x)
  %c = load i64, ptr @data
  ret i64 %c
}
"""


@pytest.mark.parametrize("triple", TRIPLES)
def test_undefined_symbols_are_read_from_elf_and_macho(triple: str) -> None:
    data = object_code(CALLER, triple)
    linker_made = {"_GLOBAL_OFFSET_TABLE_"}
    assert undefined_symbols(data) - linker_made == {"memset", "fmaf", "data"}


@pytest.mark.parametrize("triple", TRIPLES)
def test_object_files_of_any_bytes_are_read_or_refused(triple: str) -> None:
    data = bytearray(object_code(CALLER, triple))
    for at in range(len(data)):
        for value in (0, 0x7F, 0xFF):
            changed = data[:]
            changed[at] = value
            with contextlib.suppress(ValueError):
                undefined_symbols(bytes(changed))


def test_other_files_are_refused() -> None:
    for data in (b"", b"\x7fELF", b"MZ", b"\x7fELF\x01\x01" + bytes(100)):
        with pytest.raises(ValueError, match="object file"):
            undefined_symbols(data)
        with pytest.raises(ForeignCode):
            link(data)


def test_linked_code_is_called() -> None:
    step = link(object_code(ENTRY.format("%sum = add i64 %thread, 41 ret i64 %sum")))
    assert step(ctypes.c_void_p(0), 1) == 42


def test_a_change_of_any_source_that_kernels_are_made_of_is_another_state() -> None:
    """Wherever it lies: a module that is moved or shared must never link stale object code."""
    made_of = {module for module in MODULES if module.startswith("codegen_cli.kernels")}
    to_read = list(made_of)
    while to_read:
        found = imports_of(to_read.pop()) & set(MODULES) - made_of
        made_of |= found
        to_read += found
    assert "quantize.description.formats" in made_of
    made_of.add("codegen_cli.engine_cpu.compile.kernel_compiler")
    installed = places.PACKAGE.parent
    hashed = {source.relative_to(installed) for source in kernel_cache.sources()}
    assert {path_of(module).relative_to(ROOT) for module in made_of} <= hashed
