"""`codegen batch --ray`, on a cluster of two nodes: the same bytes, whatever happens to workers."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray.data", reason="needs pip install '.[ray]'")

from ray_cluster import Cluster, can_hide, free_port, workers

from codegen_cli.batch.line import keyed_lines
from codegen_cli.batch.settings import Settings
from codegen_cli.cluster.dataset import MOST_RESTARTS
from codegen_cli.cluster.opening import on_cluster
from codegen_cli.machine import places

pytestmark = [
    pytest.mark.usefixtures("compiled_kernels"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    # Of tests that start many processes.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

N_LINES = 240
OPTIONS = ("-n", "24", "--until", "none", "-t", "1", "--seed", "7", "--threads", "1")
PATIENCE_SECONDS = 100  # for what takes some seconds on an idle machine


# Ray itself tries twenty times, a second each.
WRONG_TOKEN = {"RAY_AUTH_TOKEN": "8" * 64, "RAY_NUM_REDIS_GET_RETRIES": "2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The bundled model under another name, where the second node does not see it."""
    path = tmp_path_factory.mktemp("model") / "mine.int8.safetensors"
    shutil.copy(places.bundled_model(), path)
    return path


@pytest.fixture(scope="module")
def other_home(tmp_path_factory, home, compiled_kernels):
    """The home of the second node, with nothing in it but kernels."""
    directory = tmp_path_factory.mktemp("other")
    shutil.copytree(home / "cache" / "kernels", directory / "cache" / "kernels")
    return directory


@pytest.fixture(scope="module")
def cluster(model, other_home):
    """Two nodes of a CPU each; the second has another home, and no model."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack, n_cpus=1)
        hides = [model.parent] if can_hide() else []
        cluster.add(n_cpus=1, hides=hides, CODEGEN_HOME=str(other_home))
        with pytest.MonkeyPatch.context() as changes:
            for name, value in cluster.environment.items():
                changes.setenv(name, value)
            yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    lines = [json.dumps({"prompt": f"def f{i}(x):"}) for i in range(N_LINES)]
    lines[3:3] = ["no JSON", '{"prompt": "x", "id": 1}', '{"prompt": "twice", "id": 1}']
    path = tmp_path_factory.mktemp("batch") / "in.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def alone(source, codegen):
    """What OUT holds without a cluster."""
    result = codegen("batch", str(source), *OPTIONS, "-m", "nano")
    assert result.returncode == 1  # two lines are bad
    return result.stdout


def start(source, output, cluster, *more):
    command = ["batch", str(source), "-o", str(output), *OPTIONS, "-m", "nano", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "codegen_cli", *command, "--ray", cluster.address],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(is_so, process):
    """Wait until something is so, or a process ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_workers_are_gone():
    """They end by themselves, soon after whoever started them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while list(workers()):
        assert time.monotonic() < deadline, "workers go on with what nobody wants"
        time.sleep(0.1)


def has_answers(output):
    return output.exists() and output.stat().st_size > 0


# Before there is another one, which would be found.
def test_a_cluster_of_its_own_is_made_and_gone(source, codegen, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    few = b"".join(source.read_bytes().splitlines(keepends=True)[4:20])
    arguments = ("batch", *OPTIONS, "-m", "nano")
    result = codegen(*arguments, "--ray", stdin=few)
    told = result.stderr.decode()
    assert result.stdout == codegen(*arguments, stdin=few).stdout, told
    assert " on 1 node of a Ray cluster" in told
    assert not (tmp_path / ".ray").exists()  # its token was for this run alone
    wait_until_workers_are_gone()


def test_many_nodes_give_the_bytes_of_one_and_ray_says_nothing(cluster, source, alone, codegen):
    result = codegen(
        "batch", *OPTIONS, "-m", "nano", "--ray", cluster.address, stdin=source.read_bytes()
    )
    told = result.stderr.decode().splitlines()
    assert result.returncode == 1, told
    assert result.stdout == alone
    assert told[0] == "codegen: 2 workers of 1 thread on 2 nodes of a Ray cluster"
    assert all(line.startswith(("codegen: ", "error: ", "hint: ")) for line in told)


def test_workers_and_a_node_that_die_change_nothing(cluster, source, alone, tmp_path):
    output = tmp_path / "out.jsonl"
    with contextlib.ExitStack() as node:
        cluster.add(n_cpus=1, stack=node)
        process = start(source, output, cluster)
        wait_until(lambda: has_answers(output), process)
        killed = set(workers())
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
    wait_until(lambda: set(workers()) - killed, process)
    _, told = process.communicate(timeout=120)
    assert told.startswith("codegen: 3 workers of 1 thread on 3 nodes")
    assert output.read_bytes() == alone, told
    assert process.returncode == 1
    assert all(line.startswith(("codegen: ", "error: ", "hint: ")) for line in told.splitlines())


def test_a_worker_that_dies_again_and_again_ends_the_job(cluster, source, alone, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start(source, output, cluster)
    while process.poll() is None:
        for worker in list(workers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.2)
    _, told = process.communicate()
    assert process.returncode == 1
    assert f"died again and again, {MOST_RESTARTS + 1} times: " in told
    assert told.splitlines()[-1].startswith("hint: Was memory short on its node?")
    assert alone.startswith(output.read_bytes() if output.exists() else b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_it_leaves_whole_lines_and_no_worker_and_is_gone_on_with(
    cluster, source, alone, tmp_path, codegen, number
):
    output = tmp_path / "out.jsonl"
    process = start(source, output, cluster)
    wait_until(lambda: has_answers(output), process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    content = output.read_bytes()
    n_done = content.count(b"\n")
    assert 0 < n_done < N_LINES
    assert alone.startswith(content)
    assert content.endswith(b"\n")
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert told.splitlines()[-1] == (
            f"codegen: {output} has {n_done} of {N_LINES + 3} answers: the same command goes on"
        )
    wait_until_workers_are_gone()
    # Here and there it is one job: it began on a cluster, and goes on without.
    result = codegen("batch", str(source), "-o", str(output), *OPTIONS, "-m", "nano")
    assert f"codegen: {output} has {n_done} of" in result.stderr.decode()
    assert output.read_bytes() == alone


@pytest.mark.skipif(not can_hide(), reason="needs to mount")
def test_a_node_without_the_model_gets_it_in_pieces(cluster, model, other_home, source, alone):
    lines = list(keyed_lines([source.read_bytes()], 7))
    options = {"max_tokens": 24, "temperature": 1.0, "top_p": 0.95, "until": "none"}
    settings = Settings(model="nano:int8", options=options)
    copies = other_home / "cache" / "packed"
    assert not copies.exists()
    with on_cluster(cluster.address, str(model), threads=1, piece_bytes=500_000) as answerer:
        answers = list(answerer.answers(lines, settings))
    assert b"".join(answer.content for answer in answers) == alone
    (copy,) = copies.iterdir()
    assert copy.read_bytes() == model.read_bytes()


@pytest.fixture
def other_codegen(tmp_path):
    """Variables of a Python that has another state of codegen: a comment more."""
    for package in (places.PACKAGE, places.PACKAGE.parent / "quantize"):
        shutil.copytree(package, tmp_path / package.name)
    with (tmp_path / "codegen_cli" / "__init__.py").open("a") as file:
        file.write("# another\n")
    finder = (
        "import sys\nfrom importlib.machinery import PathFinder\n"
        "class Other:\n    def find_spec(name, path=None, target=None):\n"
        "        if name in ('codegen_cli', 'quantize'):\n"
        f"            return PathFinder.find_spec(name, [{str(tmp_path)!r}])\n"
        "sys.meta_path.insert(0, Other)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(finder)
    return {"PYTHONPATH": str(tmp_path)}


def test_another_codegen_on_a_node_is_refused_before_anything_is_done(
    cluster, source, tmp_path, codegen, other_codegen
):
    output = tmp_path / "out.jsonl"
    with contextlib.ExitStack() as stack:
        cluster.add(n_cpus=1, stack=stack, **other_codegen)
        result = codegen(
            "batch", str(source), "-o", str(output), "-m", "nano", "--ray", cluster.address
        )
    told = result.stderr.decode()
    assert result.returncode == 1
    assert " has codegen 0.1.0 (sources " in told
    assert told.splitlines()[-1].startswith("hint: Install the same on all")
    assert not output.exists()


@pytest.mark.parametrize(
    ("address", "changes", "error"),
    [
        ("{address}", WRONG_TOKEN, "{address} does not let this user in"),
        ("127.0.0.1:{free}", {}, "error: no Ray cluster at 127.0.0.1:{free}: Connection refused"),
        ("ray://127.0.0.1:10001", {}, "is an address for Ray Client"),
        ("auto", {"RAY_ADDRESS": "127.0.0.1:{free}"}, "no Ray cluster at 127.0.0.1:{free}"),
    ],
)
def test_what_cannot_be_connected_to_is_said(cluster, source, codegen, address, changes, error):
    values = {"address": cluster.address, "free": free_port()}
    changes = {name: value.format(**values) for name, value in changes.items()}
    result = codegen("batch", str(source), "--ray", address.format(**values), **changes)
    told = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert error.format(**values) in told[0]
    assert told[1].startswith("hint: ")
    assert len(told) == 2


def test_what_a_worker_cannot_do_is_one_error(cluster, source, codegen):
    result = codegen("batch", str(source), "-m", "nano", "--threads", "3", "--ray", cluster.address)
    assert result.stderr.decode().splitlines() == [
        "error: no node of the cluster has 3 CPUs, the largest has 1",
        "hint: Give fewer --threads.",
    ]
