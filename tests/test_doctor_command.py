"""`codegen doctor` as a process of its own, and each problem that it can name."""

import json
import os
import re
from pathlib import Path

import pytest
from packed import flip_bit, write_packed

from codegen_cli.hub.entries import entries
from codegen_cli.machine import cpu, memory
from codegen_cli.machine.cores import Cores, usable_cores
from codegen_cli.machine.prefetch import HINTS, prefetch_choice
from codegen_cli.measuring.findings import Forecast, Kernels
from codegen_cli.measuring.forecast import ReadSpeeds
from codegen_cli.measuring.problems import (
    default_problems,
    directory_problems,
    disturbances,
    kernel_problems,
    memory_problems,
    reading_problems,
    thread_problems,
)
from quantize.files.errors import UserError

GB = 10**9


@pytest.fixture(scope="module")
def report(codegen, compiled_kernels):
    result = codegen("doctor", "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    return json.loads(result.stdout)


def test_json_has_the_facts_of_this_machine(report, home):
    assert report["cpu_name"] == cpu.name()
    assert report["cpu_features"] == cpu.telling_features()
    assert report["n_threads"] == usable_cores().n_threads
    assert report["threads_reason"] == usable_cores().reason
    assert report["memory_bytes"] == memory.installed_bytes()
    assert report["reading"]["limit"] > 0
    assert report["models_dir"] == str(home / "models")
    assert set(report["versions"]) == {"codegen", "python", "numpy", "numba", "llvmlite"}
    kernels = report["kernels"]
    assert kernels["path"] == cpu.kernel_path()
    assert kernels["usable"] == cpu.usable_kernel_paths()
    assert kernels["prefetch"] == str(prefetch_choice())
    assert set(report["prefetches"]) == set(HINTS)
    assert all(speed > 1e8 for speed in report["prefetches"].values())
    assert kernels["directory"] == str(home / "cache" / "kernels")
    assert kernels["is_kept"]
    assert kernels["is_trusted"]
    files = list((home / "cache" / "kernels").iterdir())
    assert kernels["n_files"] == len(files)
    assert kernels["bytes"] == sum(file.stat().st_size for file in files)


def test_every_model_and_format_has_a_speed_and_a_verdict(report):
    found = {(each["name"], each["format"]) for each in report["forecasts"]}
    expected = {
        (entry.name, format)
        for entry in entries()
        if entry.repository
        for format in ("int4", "int8", "f16")
    }
    assert found == expected | {("nano", "int8")}
    available = report["memory_available_bytes"]
    for each in report["forecasts"]:
        assert each["tokens_per_second"] > 0
        if available is not None:
            assert each["fits"] == (each["memory_bytes"] <= available)


def test_a_model_runs_on_no_more_threads_than_it_feeds(report):
    found = {(each["name"], each["format"]): each["n_threads"] for each in report["forecasts"]}
    assert found["nano", "int8"] == min(report["n_threads"], 5)
    assert found["350M-mono", "int4"] == min(report["n_threads"], 16)


def test_the_speeds_follow_from_the_bytes(report):
    by_name = {(each["name"], each["format"]): each for each in report["forecasts"]}
    for size in ("350M", "2B", "6B", "16B"):
        each = by_name[f"{size}-mono", "f16"]
        # But for the vectors of f32, which are read as they come.
        speed = report["reading"]["kernels"]["f16"] / each["token_bytes"]
        assert each["tokens_per_second"] == pytest.approx(speed, rel=0.01)
        assert each == by_name[f"{size}-nl", "f16"] | {"name": f"{size}-mono"}


def test_the_report_is_for_people(codegen, compiled_kernels, home):
    result = codegen("doctor", "--threads", "1")
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    above = lines[: lines.index("")]
    facts = dict(re.split(" {2,}", line, maxsplit=1) for line in above if line[0] != " ")
    assert facts["CPU"] == cpu.name()
    assert facts["kernels"].startswith(cpu.kernel_path())
    assert facts["compiled code"].endswith(str(home / "cache" / "kernels"))
    assert facts["threads"] == f"1 ({usable_cores().reason})"
    assert facts["models in"] == str(home / "models")
    table = lines.index(next(line for line in lines if line.startswith("model ")))
    row = next(line for line in lines[table:] if line.startswith("350M-nl/multi/mono "))
    assert row.split()[1] == "int4"
    assert sum(line.startswith(("nano", "350M", "2B", "6B", "16B")) for line in lines[table:]) == 5
    slow = "Not good: Other programs kept", "Not good: Kernels read weights at a share"
    if not any(line.startswith(slow) for line in lines):
        assert lines[-1] == "Nothing is wrong."


@pytest.fixture(scope="module")
def with_models(codegen, compiled_kernels, tmp_path_factory, home):
    """The report where a model is packed, and the path of one that is damaged."""
    directory = tmp_path_factory.mktemp("home")
    write_packed(directory / "models" / "2B-nl.int4.safetensors", "int8", name="2B-nl")
    damaged = write_packed(directory / "models" / "mine.int8.safetensors")
    flip_bit(damaged, 100)
    (directory / "cache").symlink_to(home / "cache")
    return codegen("doctor", CODEGEN_HOME=str(directory)), damaged


def test_a_packed_model_has_a_row_of_its_own(with_models):
    rows = with_models[0].stdout.decode().splitlines()
    first = next(i for i, row in enumerate(rows) if row.startswith("2B-nl "))
    assert sum("packed" in row for row in rows[first : first + 3]) == 1
    assert any(row.startswith("2B-multi/mono ") for row in rows)


def test_a_damaged_model_is_broken(with_models):
    result, path = with_models
    assert result.returncode == 1
    text = result.stdout.decode()
    assert f"Broken: {path}" in text
    assert "Nothing is wrong" not in text


def test_kernels_that_cannot_run_are_broken_and_the_rest_is_told(codegen):
    result = codegen("doctor", "--json", CODEGEN_KERNELS="sse")
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["is_broken"]
    problem = report["problems"][0]
    assert problem["is_broken"]
    assert problem["sentence"] == "CODEGEN_KERNELS=sse: that kernel path does not exist."
    assert report["kernels"]["path"] is None
    assert all(each["tokens_per_second"] is None for each in report["forecasts"])
    assert report["reading"]["limit"] > 0
    assert report["reading"]["kernels"] == {}


@pytest.mark.parametrize("library", ["numba", "llvmlite"])
def test_a_library_that_cannot_be_imported_is_named(codegen, tmp_path, library):
    """As when NumPy was updated to a release that numba does not know."""
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text("raise ImportError('found NumPy 9.0')\n")
    environment = {"CODEGEN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    told = (f"{library} cannot be imported: found NumPy 9.0", "pip install --force-reinstall numba")
    for command in (("complete", "x"), ("bench",), ("doctor",)):
        result = codegen(*command, **environment)
        text = (result.stdout + result.stderr).decode()
        assert result.returncode == 1
        assert all(part in text for part in told)
        assert "Traceback" not in text


def test_code_that_cannot_be_kept_is_a_problem_and_no_failure(codegen, tmp_path):
    (tmp_path / "cache").touch()
    result = codegen("doctor", "-q", CODEGEN_HOME=str(tmp_path))
    assert result.returncode == 0
    text = result.stdout.decode()
    assert "Not good: Compiled code is not kept, so every start compiles anew" in text
    assert f"Cannot write to {tmp_path}/cache/kernels: Not a directory.\n  CODEGEN_HOME" in text


# --- each problem ---------------------------------------------------------------------------------


def kernels(directory: Path, **changes: object) -> Kernels:
    fields = {
        "path": "avx2",
        "usable": ["avx2", "generic"],
        "is_forced": False,
        "prefetch": "nta:4096",
        "is_prefetch_forced": False,
        "directory": directory,
        "is_trusted": True,
        "is_kept": True,
        "n_files": 2,
        "bytes": 100,
    }
    return Kernels(**(fields | changes))


def test_the_best_kernels_kept_are_no_problem(tmp_path: Path) -> None:
    assert list(kernel_problems(kernels(tmp_path))) == []


def test_a_forced_slower_path_is_named_with_the_better_one(tmp_path: Path) -> None:
    [problem] = kernel_problems(kernels(tmp_path, path="generic", is_forced=True))
    assert "CODEGEN_KERNELS chooses generic, which is slower here than avx2" in problem.sentence
    assert not problem.is_broken


def test_kernels_that_are_not_kept_say_why_or_where_they_are_missing(tmp_path: Path) -> None:
    obstacle = UserError("others can write to it", "Close it.")
    [problem] = kernel_problems(kernels(tmp_path, obstacle=obstacle, is_kept=False))
    assert problem.sentence.endswith("for 20 to 60 seconds. Others can write to it.")
    assert problem.hint == "Close it."
    [problem] = kernel_problems(kernels(tmp_path, is_kept=False))
    assert f"is not in {tmp_path}" in problem.sentence
    assert "CODEGEN_HOME" in problem.hint


def test_kernels_that_read_far_slower_than_memory_delivers_are_named(tmp_path: Path) -> None:
    slow = ReadSpeeds(20e9, {"int4": 9e9, "int8": 13e9})
    ways = {"none": 19e9, "nta": 9e9, "t1": 20e9}
    [problem] = reading_problems(slow, ways, kernels(tmp_path))
    assert problem.sentence.endswith("of what this memory gives: int4 0.45.")
    assert "prefetch t1 is faster here than with nta" in problem.hint
    assert "CODEGEN_PREFETCH=t1 codegen bench" in problem.hint
    [problem] = reading_problems(slow, dict.fromkeys(ways, 9e9), kernels(tmp_path))
    assert problem.hint == "Reading is no faster by another way to prefetch."
    assert list(reading_problems(ReadSpeeds(20e9, {"int4": 13e9}), ways, kernels(tmp_path))) == []
    generic = kernels(tmp_path, path="generic", is_forced=True)
    assert list(reading_problems(slow, ways, generic)) == []


def test_other_programs_at_work_explain_low_speeds() -> None:
    assert list(disturbances(None)) == list(disturbances(0.1)) == []
    [problem] = disturbances(1.34)
    assert "Other programs kept 1.3 cores busy" in problem.sentence
    assert not problem.is_broken


def test_more_threads_than_cores_wait_for_each_other() -> None:
    assert list(thread_problems(2, Cores(4, 2, None))) == []
    [problem] = thread_problems(3, Cores(4, 2, None))
    assert "3 threads are more than can run at once (2 cores" in problem.sentence
    assert len(list(thread_problems(2, Cores(4, 4, 1.5)))) == 1
    assert list(thread_problems(4, Cores(4, 4, None, 2))) == []  # two on slow cores, as asked for


@pytest.fixture
def codegen_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    return tmp_path


def test_a_models_directory_that_cannot_be_read_is_named(codegen_home: Path) -> None:
    assert list(directory_problems()) == []
    (codegen_home / "models").touch()
    [problem] = directory_problems()
    assert problem.sentence == f"Cannot read {codegen_home}/models: Not a directory."
    assert not problem.is_broken


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_models_directory_without_permission_is_named(codegen_home: Path) -> None:
    (codegen_home / "models").mkdir(mode=0o500)
    assert len(list(directory_problems())) == 1


def forecast(name: str, needs: int, *, fits: bool, packed: bool = False) -> Forecast:
    path = Path(f"{name}.int4.safetensors") if packed else None
    return Forecast(name, "int4", path, needs, fits, 2, 1, 1.0)


@pytest.mark.parametrize(
    ("content", "said", "is_broken"),
    [
        ("nonsense", "it is not valid JSON", True),
        ('{"default_model": "gone"}', "gone, the default model, has gone.", True),
        ('{"default_model": "gone", "automatic_default": "gone"}', "has gone.", False),
    ],
)
def test_settings_with_which_another_model_or_none_answers_are_a_problem(
    tmp_path, monkeypatch, content, said, is_broken
):
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    assert list(default_problems()) == []
    (tmp_path / "settings.json").write_text(content)
    [problem] = default_problems()
    assert said in problem.sentence
    assert problem.hint
    assert problem.is_broken is is_broken
    (tmp_path / "settings.json").write_text('{"default_model": "nano"}')
    assert list(default_problems()) == []


def test_packed_models_that_do_not_fit_are_named_with_numbers() -> None:
    forecasts = [
        forecast("350M-nl", GB, fits=True),
        forecast("2B-nl", 3 * GB, fits=False, packed=True),
        forecast("16B-nl", 11 * GB, fits=False),
    ]
    [problem] = memory_problems(forecasts, 2 * GB)
    expected = "2B-nl:int4 needs 3.0 GB of memory, and 2.0 GB are available."
    assert problem.sentence == expected


def test_a_machine_for_no_real_model_is_told_what_the_smallest_needs() -> None:
    forecasts = [
        forecast("nano", GB // 5, fits=True, packed=True),
        forecast("2B-nl", 3 * GB, fits=False),
        forecast("350M-nl", GB, fits=False),
    ]
    [problem] = memory_problems(forecasts, GB // 2)
    assert problem.sentence == "No model but nano fits: 0.5 GB are available."
    assert "350M-nl:int4, needs 1.0 GB" in problem.hint
