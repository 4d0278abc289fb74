"""Object code is compiled once, kept where only its user may write, used only if it is right."""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from codegen_cli.engine import kernel_cache
from codegen_cli.engine.linker import ALLOWED_SYMBOLS, ForeignCode, link
from codegen_cli.engine.object_file import undefined_symbols

ENTRY = "define i64 @codegen_run_step(ptr %table, i64 %thread) {{ {} }}\n"


def object_code(llvm_ir: str, triple: str | None = None) -> bytes:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(triple or binding.get_default_triple())
    machine = target.create_target_machine(reloc="pic", codemodel="small")
    return machine.emit_object(binding.parse_assembly(llvm_ir))


class Compiles(Exception):
    """What these tests raise when load_step is about to spend seconds on compiling."""


def load() -> object:
    def refuse() -> None:
        raise Compiles

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
        "from codegen_cli.engine import kernel_cache\n"
        "kernel_cache.load_step(lambda: sys.exit('compiles'))\n"
        "print('numba' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_a_completion_from_a_warm_cache_never_imports_numba(cache: Path, codegen) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "codegen_cli", "complete", "-n", "2", "x"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "llvmlite" in result.stderr
    assert "numba" not in result.stderr


def test_files_of_other_releases_and_cpus_are_told_from_those_in_use(cache: Path) -> None:
    in_use = set(cache.iterdir())
    assert kernel_cache.unused_files() == []
    others = [cache / name for name in ("0f.o", "1f.sha256", "2f.sha256abc")]
    for other in others:
        other.write_bytes(b"x")
    assert kernel_cache.unused_files() == others
    [pointer] = (path for path in in_use if path.suffix == ".sha256")
    pointer.write_bytes(b"\xff")  # what it should name is not known then: all objects can go
    assert set(kernel_cache.unused_files()) == {*others, *in_use} - {pointer}
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
        "from codegen_cli.engine import cpu, kernel_cache\n"
        "cpu.target()  # imports the real llvmlite\n"
        f"sys.modules.pop({name!r}, None)\n"
        f"sys.path.insert(0, {str(release.parent.parent)!r})\n"
        "kernel_cache.load_step(lambda: sys.exit('compiles'))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stderr == "compiles\n"


def test_two_processes_that_compile_at_once_both_work_and_leave_a_good_cache(
    tmp_path: Path, codegen
) -> None:
    command = [sys.executable, "-m", "codegen_cli", "complete", "--json", "-t", "0", "-n", "4", "x"]
    environment = os.environ | {"CODEGEN_HOME": str(tmp_path)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in both]
    assert all(b"compiling kernels for this CPU" in stderr for _, stderr in ends)
    texts = [json.loads(stdout)["choices"][0]["text"] for stdout, _ in ends]
    assert texts[0] == texts[1] != ""
    third = codegen("complete", "-n", "1", "x", CODEGEN_HOME=str(tmp_path))
    assert third.returncode == 0
    assert b"compiling" not in third.stderr
    directory = tmp_path / "cache" / "kernels"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert len([*directory.glob("*.sha256")]) == 1


def test_a_cache_that_cannot_be_written_only_costs_time(codegen, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()  # not a directory
    result = codegen("complete", "-n", "4", "x", CODEGEN_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert b"compiling" in result.stderr


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


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", "x86_64-apple-darwin"])
def test_undefined_symbols_are_read_from_elf_and_macho(triple: str) -> None:
    data = object_code(CALLER, triple)
    linker_made = {"_GLOBAL_OFFSET_TABLE_"}
    assert undefined_symbols(data) - linker_made == {"memset", "fmaf", "data"}


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", "x86_64-apple-darwin"])
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
