"""What a model needs is what it allocates; what the machine has is what its files state."""

import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import small_config
from packed import write_packed

from codegen_cli.contract.engine import Identity
from codegen_cli.engine_cpu.buffers import CHUNK, Buffers
from codegen_cli.engine_cpu.kv_cache import KVCache
from codegen_cli.hub.entries import entries
from codegen_cli.kernels.step_table import BLOCK
from codegen_cli.machine.memory import MemoryLimit, available_bytes, memory_limit
from codegen_cli.models.memory_need import PROGRAM_BYTES, judge_memory, needed
from codegen_cli.session.loading import load_engine
from quantize.description.config import parse_config
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file

GB = 10**9
MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1000000 kB\nMemAvailable:    8000000 kB\n"


IDENTITY = Identity("", "numba", "float16", 1)


def config_of(**changes: object):
    return parse_config(small_config(**changes), "a test")


# --- needed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"n_positions": 100, "n_embd": 80, "rotary_dim": 4}])
def test_the_parts_are_the_bytes_that_are_allocated(changes: dict[str, object]) -> None:
    config = config_of(**changes)
    cache, buffers = KVCache(config, IDENTITY), Buffers(config, 1, min(CHUNK, config.n_positions))
    need = needed(config, 1234)
    assert need.file_bytes == 1234
    cache.make_room(0, cache.n_positions)
    assert need.cache_bytes == sum(block.nbytes for block in cache.blocks)
    arrays = sum(array.nbytes for array in buffers.arrays.values())
    activations = sum(int(record["n"]) for record in buffers.records.values())
    assert need.buffers_bytes > arrays + activations * buffers.max_tokens * 5  # f32 and i8
    assert need.bytes == 1234 + need.cache_bytes + need.buffers_bytes + PROGRAM_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is resident")
def test_of_a_text_that_ended_only_what_others_share_stays() -> None:
    config = config_of(n_layer=20, n_embd=1024, n_head=16, rotary_dim=32, n_positions=2048)
    ended, other = KVCache(config, IDENTITY), KVCache(config, IDENTITY)
    before = resident_bytes()
    ended.make_room(0, 6 * BLOCK)
    for block in ended.blocks:
        block[:] = 1
    block_bytes = ended.blocks[0].nbytes
    assert 0.99 < (resident_bytes() - before) / (6 * block_bytes) < 1.02
    other.begin_with(ended, BLOCK)
    del ended, block
    assert 0.9 < (resident_bytes() - before) / block_bytes < 1.1
    assert (other.blocks[0] == 1).all()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_the_registrys_numbers_agree() -> None:
    for entry in entries():
        size = entry.size
        names = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")
        config = config_of(**{name: getattr(size, name) for name in names})
        for format, file_bytes in size.packed_bytes.items():
            # The registry counts the arrays of a step as part of the program.
            difference = needed(config, file_bytes).bytes - size.memory_bytes[format]
            assert 0 <= difference < 30e6


# --- available ------------------------------------------------------------------------------------


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_a_control_group_the_kernels_estimate_counts(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert available_bytes(root) == 8_000_000 * 1024


GROUP = "sys/fs/cgroup/user.slice/job"


@pytest.mark.parametrize(
    ("files", "expected_bytes"),
    [
        ({f"{GROUP}/memory.max": "max\n", f"{GROUP}/memory.current": "5"}, 8_000_000 * 1024),
        (
            {f"{GROUP}/memory.max": f"{3 * GB}\n", f"{GROUP}/memory.current": f"{GB}\n"},
            2 * GB,
        ),
        (  # pages of files, such as a mapped model, make room
            {
                f"{GROUP}/memory.max": f"{3 * GB}",
                f"{GROUP}/memory.current": f"{2 * GB}",
                f"{GROUP}/memory.stat": f"anon 7\nactive_file {GB // 2}\ninactive_file {GB}\n",
            },
            5 * GB // 2,
        ),
        (  # a group above has less left
            {
                f"{GROUP}/memory.max": f"{3 * GB}",
                f"{GROUP}/memory.current": "0",
                "sys/fs/cgroup/user.slice/memory.max": f"{4 * GB}",
                "sys/fs/cgroup/user.slice/memory.current": f"{7 * GB // 2}",
            },
            GB // 2,
        ),
        (  # in a container the limit is at the top, whatever the path says
            {"sys/fs/cgroup/memory.max": f"{GB}", "sys/fs/cgroup/memory.current": "0"},
            GB,
        ),
        ({f"{GROUP}/memory.max": f"{GB}", f"{GROUP}/memory.current": f"{2 * GB}"}, 0),
        (
            {f"{GROUP}/memory.max": "99999999999999", f"{GROUP}/memory.current": "0"},
            8_000_000 * 1024,
        ),
    ],
)
def test_the_limit_of_a_control_group_counts(
    tmp_path: Path, files: dict[str, str], expected_bytes: int
) -> None:
    tree = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user.slice/job\n", **files}
    assert available_bytes(write_tree(tmp_path, tree)) == expected_bytes


def test_the_limit_of_an_old_control_group_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/job"
    root = write_tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/job\n0::/\n",
            f"{group}/memory.limit_in_bytes": f"{2 * GB}\n",
            f"{group}/memory.usage_in_bytes": f"{GB}\n",
            f"{group}/memory.stat": f"total_inactive_file {GB // 4}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
        },
    )
    assert available_bytes(root) == 5 * GB // 4


@pytest.mark.parametrize("meminfo", ["", "MemAvailable: some kB\n", "\0\xff"])
def test_without_a_number_it_is_at_most_what_is_installed(tmp_path: Path, meminfo: str) -> None:
    found = available_bytes(write_tree(tmp_path, {"proc/meminfo": meminfo}))
    assert found is None or found >= (available_bytes() or 0)


def test_this_machine_states_a_number_above_nothing() -> None:
    assert available_bytes() is None or available_bytes() > 0


# --- the limit ------------------------------------------------------------------------------------


INSTALLED = MemoryLimit(16_000_000 * 1024)
OLD_GROUP = "sys/fs/cgroup/memory/job"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, INSTALLED),
        ("0::/user.slice/job", {f"{GROUP}/memory.max": "max"}, INSTALLED),
        ("0::/user.slice/job", {f"{GROUP}/memory.max": f"{GB}"}, MemoryLimit(GB, Path(GROUP))),
        (  # what is in use now, and a soft limit, are of no interest
            "0::/user.slice/job",
            {f"{GROUP}/memory.high": "5", f"{GROUP}/memory.current": f"{GB}"},
            INSTALLED,
        ),
        (  # a group above allows less
            "0::/user.slice/job",
            {f"{GROUP}/memory.max": f"{3 * GB}", "sys/fs/cgroup/user.slice/memory.max": f"{GB}"},
            MemoryLimit(GB, Path("sys/fs/cgroup/user.slice")),
        ),
        ("0::/user.slice/job", {f"{GROUP}/memory.max": f"{99 * GB}"}, INSTALLED),
        (
            "4:memory:/job",
            {
                f"{OLD_GROUP}/memory.limit_in_bytes": f"{2 * GB}",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            MemoryLimit(2 * GB, Path(OLD_GROUP)),
        ),
        (
            "4:memory:/job/inner\n0::/user.slice/job",
            {
                f"{OLD_GROUP}/memory.limit_in_bytes": f"{2 * GB}",
                f"{GROUP}/memory.max": f"{3 * GB}",
            },
            MemoryLimit(2 * GB, Path(OLD_GROUP)),
        ),
        ("4:cpu:/job", {f"{OLD_GROUP}/memory.limit_in_bytes": f"{GB}"}, INSTALLED),
    ],
)
def test_the_least_of_what_is_installed_and_all_groups_allow_is_the_limit(
    tmp_path: Path, groups: str, files: dict[str, str], expected: MemoryLimit
) -> None:
    tree = {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups, **files}
    found = memory_limit(write_tree(tmp_path, tree))
    group = None if expected.group is None else tmp_path / expected.group
    assert found == MemoryLimit(expected.bytes, group)


def test_this_machines_limit_is_no_less_than_what_is_available() -> None:
    limit, available = memory_limit(), available_bytes()
    assert limit is None or available is None or limit.bytes >= available


# --- refused --------------------------------------------------------------------------------------


def test_a_model_beyond_the_limit_is_refused_with_numbers_and_the_format_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = {"vocab_size": 100_000, "n_embd": 256, "n_positions": 2048, "n_layer": 1}
    packed = read_packed_file(write_packed(tmp_path / "m", "f16", **wide))
    with pytest.raises(UserError) as refused:
        judge_memory(packed, "wide", None, MemoryLimit(230_000_000))
    numbers = "wide needs 0.3 GB of memory (file 0.1 GB, cache 2 MB)"
    assert refused.value.message == f"{numbers}, this machine has 0.2 GB"
    assert refused.value.hint.startswith("wide:int8 needs 0.2 GB. --ignore-memory (ignore_memory=")
    with pytest.raises(UserError) as refused:
        judge_memory(packed, "wide.f16", 1, MemoryLimit(230_000_000, Path("/sys/fs/cgroup/job")))
    group = "its control group, /sys/fs/cgroup/job, is limited to 0.2 GB"
    assert refused.value.message.endswith(f", {group}")
    assert refused.value.hint.startswith("wide:int8 needs")
    assert capsys.readouterr().err == ""


def test_where_the_smallest_format_does_not_fit_a_smaller_model_that_does_is_named(
    tmp_path: Path,
) -> None:
    path = write_packed(tmp_path / "m", "f16", n_positions=2**20, n_layer=8)
    with pytest.raises(UserError) as refused:
        judge_memory(read_packed_file(path), "16B-mono@v1", None, MemoryLimit(700_000_000))
    assert refused.value.hint.startswith("350M-mono:int4 needs 0.6 GB. --ignore-memory")
    with pytest.raises(UserError) as refused:
        judge_memory(read_packed_file(path), "tiny", None, MemoryLimit(1_000_000))
    assert refused.value.hint.startswith("tiny:int4 needs ")
    path = write_packed(tmp_path / "m", "int4")
    with pytest.raises(UserError) as refused:
        judge_memory(read_packed_file(path), "tiny", None, MemoryLimit(1))
    assert refused.value.hint.startswith("--ignore-memory")


def test_what_is_within_the_limit_and_not_free_now_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = read_packed_file(write_packed(tmp_path / "m"))
    need = needed(packed.config, packed.path.stat().st_size)
    judge_memory(packed, "tiny", need.bytes - 1, MemoryLimit(need.bytes))
    assert "are available: it may be very slow" in capsys.readouterr().err


# --- the warning ----------------------------------------------------------------------------------


def test_enough_memory_and_an_unknown_amount_need_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = read_packed_file(write_packed(tmp_path / "m", "f16"))
    need = needed(config_of(), packed.path.stat().st_size)
    judge_memory(packed, "tiny", need.bytes, None)
    judge_memory(packed, "tiny", None, None)
    assert capsys.readouterr().err == ""


def test_too_little_memory_is_told_with_numbers_and_the_format_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = {"vocab_size": 400_000, "n_embd": 256, "n_positions": 2048, "n_layer": 1}
    path = write_packed(tmp_path / "m", "f16", **wide)
    judge_memory(read_packed_file(path), "wide", 500_000_000, None)
    warning = capsys.readouterr().err
    assert warning.startswith("codegen: wide needs 0.6 GB of memory (file 0.4 GB, cache 2 MB)")
    assert "0.5 GB are available" in warning
    assert "wide:int8 needs 0.4 GB" in warning


def test_where_no_format_fits_the_smallest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_memory(read_packed_file(write_packed(tmp_path / "m", "f16")), "tiny", 1_000_000, None)
    assert "tiny:int4 needs 0.2 GB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("available", "named"),
    [(20_000, "350M-multi:int4 needs 0.6 GB"), (170_000_000, "350M-multi:int4")],
)
def test_the_smallest_format_names_a_smaller_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], available: int, named: str
) -> None:
    path = write_packed(tmp_path / "m", "int4", n_positions=65536)
    judge_memory(read_packed_file(path), "16B-multi", available, None)
    assert named in capsys.readouterr().err


def test_a_small_model_of_ones_own_has_nothing_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_memory(read_packed_file(write_packed(tmp_path / "m", "int4")), "tiny", 1, None)
    assert capsys.readouterr().err.endswith("or be ended by the system\n")


@pytest.fixture
def too_large(tmp_path: Path) -> Path:
    """A small file with a cache of more than the memory that this machine has."""
    limit = memory_limit()
    n_layer = 1001 if limit is None else limit.bytes // (4 * 2**20 * 64) + 1
    if n_layer > 1000:
        pytest.skip("no small file can need more memory than this machine has")
    return write_packed(tmp_path / "m", "int8", n_positions=2**20, n_layer=n_layer)


def test_a_model_too_large_for_this_machine_is_loaded_only_if_memory_is_to_be_ignored(
    too_large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = read_packed_file(too_large)
    with pytest.raises(UserError, match=r"large needs .* of memory"):
        load_engine(packed, "large", 1)
    assert capsys.readouterr().err == ""
    load_engine(packed, "large", 1, ignore_memory=True).close()
    assert "GB are available: it may be very slow" in capsys.readouterr().err


def test_pytorch_which_judges_its_own_memory_is_warned_of_only(
    too_large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    load_engine(read_packed_file(too_large), "large", 1, "torch:cpu").close()
    assert "GB are available: it may be very slow" in capsys.readouterr().err


def test_loading_a_model_that_fits_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_engine(read_packed_file(write_packed(tmp_path / "m")), "tiny", 1).close()
    assert capsys.readouterr().err == ""


# --- memory that comes and goes -------------------------------------------------------------------


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_a_draw_among_a_whole_vocabulary_takes_no_fresh_pages_each_time() -> None:
    script = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from codegen_cli.decoding.sampler import make_sampler\n"
        "from codegen_cli.machine.allocator import keep_freed_memory\n"
        "if sys.argv[1] == 'kept':\n"
        "    keep_freed_memory()\n"
        "logits = np.random.RandomState(0).randn(51200).astype(np.float32)\n"
        "sample = make_sampler(1.0, 0.95, 0, range(50295, 51200))\n"
        "sample(logits, 0.5)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for i in range(50):\n"
        "    sample(logits, i / 50)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {}
    for mode in ("kept", "handed back"):
        command = [sys.executable, "-c", script, mode]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        faults[mode] = int(found.stdout)
    assert faults["kept"] < 50 * 20
    assert faults["kept"] < faults["handed back"] / 4
