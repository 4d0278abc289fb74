"""The threads of a team: cores counted once, the affinity mask and the quota of control groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_cli.machine.cores import Cores, usable_cores
from codegen_cli.machine.system_files import number_in

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def topology(siblings: dict[int, str], name: str = "thread_siblings_list") -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/{name}": f"{text}\n"
        for cpu, text in siblings.items()
    }


TWO_CORES = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}


# --- cores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thread_siblings_list", "core_cpus_list"])
def test_two_threads_of_one_core_count_once(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path, topology(TWO_CORES, name))
    cores = usable_cores(root, {0, 1, 2, 3})
    assert (cores.n_cpus, cores.n_cores, cores.n_threads) == (4, 2, 2)
    assert cores.reason == "2 cores for this process, which count as 4 CPUs"


@pytest.mark.parametrize(
    ("cpus", "n_cores"), [({0}, 1), ({0, 2}, 1), ({0, 1}, 2), ({0, 3}, 2), ({0, 1, 2}, 2)]
)
def test_only_cores_that_the_affinity_mask_reaches_count(
    tmp_path: Path, cpus: set[int], n_cores: int
) -> None:
    root = write_tree(tmp_path, topology(TWO_CORES))
    assert usable_cores(root, cpus).n_threads == n_cores


def test_siblings_may_be_a_range(tmp_path: Path) -> None:
    root = write_tree(tmp_path, topology({i: f"{i // 4 * 4}-{i // 4 * 4 + 3}" for i in range(8)}))
    assert usable_cores(root, set(range(8))).n_cores == 2


def test_without_topology_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, set(range(6))).n_threads == 6


@pytest.mark.parametrize(
    "text", ["", "none", "1-", "-3", "7", "0-1023", "0-99999999999999", "9-0", "\0\xff", "0,,1"]
)
def test_a_topology_that_cannot_be_true_is_not_believed(tmp_path: Path, text: str) -> None:
    root = write_tree(tmp_path, topology(dict.fromkeys(range(4), text)))
    assert usable_cores(root, {0, 1, 2, 3}).n_cores == 4


def test_no_cpu_at_all_is_one_thread(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, set()).n_threads == 1


# --- kinds of cores -------------------------------------------------------------------------------

# Two performance cores of two CPUs each, four efficiency cores.
HYBRID = topology({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"} | {i: str(i) for i in range(4, 8)}) | {
    "sys/devices/cpu_core/cpus": "0-3\n",
    "sys/devices/cpu_atom/cpus": "4-7\n",
}


def capacities(*values: int) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{i}/cpu_capacity": f"{value}\n"
        for i, value in enumerate(values)
    }


@pytest.mark.parametrize(
    ("files", "cpus", "n_threads", "n_slow"),
    [
        (HYBRID, range(8), 2, 4),
        (HYBRID, range(2, 6), 1, 2),
        (HYBRID, range(2), 1, 0),
        (HYBRID, range(4, 8), 4, 0),  # only slow ones: then they are what there is
        ({"sys/devices/cpu_core/cpus": "0-15"}, range(12, 20), 4, 4),
        ({"sys/devices/cpu_core/cpus": "nonsense"}, range(8), 8, 0),
        ({"sys/devices/cpu_core/cpus": "0-99999999999999"}, range(8), 8, 0),
        (capacities(530, 530, 530, 530, 1024, 1024, 1024, 1024), range(8), 4, 4),
        (capacities(250, 250, 870, 870, 1024), range(5), 3, 2),
        (capacities(250, 250, 870, 870, 1024), range(2), 2, 0),
        (capacities(1024, 1024, 1024, 1024), range(4), 4, 0),
        (capacities(1024, 1024), range(4), 4, 0),  # of two nothing is known
        (capacities(0, 0), range(2), 2, 0),
    ],
)
def test_cores_of_a_slower_kind_are_left_out(
    tmp_path: Path, files: dict[str, str], cpus: range, n_threads: int, n_slow: int
) -> None:
    cores = usable_cores(write_tree(tmp_path, files), set(cpus))
    assert (cores.n_threads, cores.n_slow) == (n_threads, n_slow)


def test_the_reason_names_slow_cores() -> None:
    assert Cores(12, 8, None, 4).reason == (
        "8 cores for this process, which count as 12 CPUs; 4 slower ones left out"
    )
    assert Cores(3, 3, 1.5, 1).reason == (
        "3 cores for this process; 1 slower one left out; its quota pays for 1.5"
    )


# --- quota ----------------------------------------------------------------------------------------

IN_JOB = {"proc/self/cgroup": "0::/user.slice/job\n"}
JOB = "sys/fs/cgroup/user.slice/job/cpu.max"


@pytest.mark.parametrize(
    ("files", "quota", "n_threads"),
    [
        ({}, None, 4),
        ({JOB: "max 100000\n"}, None, 4),
        ({JOB: "300000 100000\n"}, 3.0, 3),
        ({JOB: "150000 100000\n"}, 1.5, 1),
        ({JOB: "199000 100000\n"}, 1.99, 1),
        ({JOB: "20000 100000\n"}, 0.2, 1),
        ({JOB: "900000 100000\n"}, 9.0, 4),
        ({JOB: "300000 100000", "sys/fs/cgroup/user.slice/cpu.max": "200000 100000"}, 2.0, 2),
        ({JOB: "200000 100000", "sys/fs/cgroup/user.slice/cpu.max": "300000 100000"}, 2.0, 2),
        ({JOB: "max 100000", "sys/fs/cgroup/user.slice/cpu.max": "200000 50000"}, 4.0, 4),
        ({"sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0, 1),  # a container: its own is the top
        ({JOB: "0 100000\n"}, None, 4),
        ({JOB: "100000 0\n"}, None, 4),
        ({JOB: "many few\n"}, None, 4),
        ({JOB: "100000\n"}, None, 4),
        ({"sys/fs/cgroup/other/cpu.max": "100000 100000"}, None, 4),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts_rounded_down(
    tmp_path: Path, files: dict[str, str], quota: float | None, n_threads: int
) -> None:
    cores = usable_cores(write_tree(tmp_path, IN_JOB | files), {0, 1, 2, 3})
    assert cores.quota == quota
    assert cores.n_threads == n_threads


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota_us", "n_threads"), [("-1", 4), ("250000", 2)])
def test_an_old_control_group_has_a_quota_in_two_files(
    tmp_path: Path, folder: str, quota_us: str, n_threads: int
) -> None:
    group = f"sys/fs/cgroup/{folder}/job"
    files = {
        "proc/self/cgroup": "5:memory:/other\n4:cpu,cpuacct:/job\n0::/\n",
        f"{group}/cpu.cfs_quota_us": f"{quota_us}\n",
        f"{group}/cpu.cfs_period_us": "100000\n",
        f"sys/fs/cgroup/{folder}/other/cpu.cfs_quota_us": "100000\n",
        f"sys/fs/cgroup/{folder}/other/cpu.cfs_period_us": "100000\n",
        f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us": "-1\n",
        f"sys/fs/cgroup/{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(write_tree(tmp_path, files), {0, 1, 2, 3}).n_threads == n_threads


def test_the_reason_names_the_quota() -> None:
    assert Cores(1, 1, None).reason == "1 core for this process"
    assert Cores(4, 4, 1.5).reason == "4 cores for this process; its quota pays for 1.5"


# --- this machine ---------------------------------------------------------------------------------


def test_this_machine_has_a_core_and_no_more_than_cpus() -> None:
    cores = usable_cores()
    assert 1 <= cores.n_threads <= cores.n_cores <= cores.n_cpus <= (os.cpu_count() or 1)


@needs_affinity
def test_a_process_on_one_cpu_starts_one_thread(compiled_kernels: None) -> None:
    script = (
        "import os, threading\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from codegen_cli.session.engines import open_engine\n"
        "from codegen_cli.machine.places import bundled_model\n"
        "model = open_engine(bundled_model())\n"
        "print(threading.active_count())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout == "2\n"  # the main thread and the team's only one


@pytest.mark.parametrize(
    ("text", "number"), [("12\n", 12), ("max\n", None), ("-1", None), ("", None), ("٣", None)]
)
def test_a_file_states_a_number_or_nothing(tmp_path: Path, text: str, number: int | None) -> None:
    (tmp_path / "file").write_text(text)
    assert number_in(tmp_path / "file") == number
    assert number_in(tmp_path / "missing") is None
