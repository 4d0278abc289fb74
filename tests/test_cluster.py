"""What `--ray` needs before there is a cluster: its value, Ray, and the model on a node."""

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import typer
from checkpoints import random_tensors, small_config, write_checkpoint
from hub_client import environment
from hub_server import HubServer, Repository
from packed import flip_bit, write_packed

from codegen_cli.cluster import presence, versions
from codegen_cli.cluster.model_copy import bring_model, find_model, read_piece, shared_model
from codegen_cli.cluster.opening import on_cluster
from codegen_cli.commands.app import app
from codegen_cli.machine import places
from quantize.files.errors import UserError
from quantize.packed.packed_header import read_packed_header


@pytest.mark.parametrize(
    ("arguments", "ray", "source"),
    [
        (["in"], None, "in"),
        (["in", "--ray", "-o", "out"], "", "in"),
        (["in", "--ray"], "", "in"),
        (["--ray", "in"], "", "in"),
        (["--ray", "10.0.0.1:6379", "in"], "10.0.0.1:6379", "in"),
        (["in", "--ray", "head.cluster:6379"], "head.cluster:6379", "in"),
        (["in", "--ray", "[fd00::1]:6379"], "[fd00::1]:6379", "in"),
        (["in", "--ray", "local"], "local", "in"),
        (["in", "--ray", "auto"], "auto", "in"),
        (["in", "--ray=whatever"], "whatever", "in"),
        (["--ray", "--", "--ray"], "", "--ray"),
        (["--ray", "./local"], "", "./local"),
    ],
)
def test_ray_has_a_value_if_what_follows_can_be_nothing_else(arguments, ray, source):
    command = typer.main.get_command(app).commands["batch"]
    values = command.make_context("batch", list(arguments)).params
    assert (values["ray"], values["source"]) == (ray, source)


def test_without_ray_the_command_to_install_it_is_told(monkeypatch):
    find = importlib.util.find_spec
    missing = lambda name: None if name == "ray" else find(name)  # noqa: E731
    monkeypatch.setattr(presence, "find_spec", missing)
    with pytest.raises(UserError, match="not installed") as caught, on_cluster("", "nano"):
        pass
    assert caught.value.hint == "Install it: pip install 'codegen-complete[ray]'"


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("somewhere", {}, "'somewhere' is no address of a Ray cluster"),
        ("head:0", {}, "'head:0' is no address"),
        ("head:65536", {}, "'head:65536' is no address"),
        ("ray://head:10001", {}, "is an address for Ray Client"),
        ("", {"device": "cuda"}, "--ray computes on CPUs, not on cuda"),
        ("", {"device": "torch:cpu"}, "--ray computes on CPUs, not on torch:cpu"),
        ("", {"from_hub": True}, "nano is no model of the hub"),
    ],
)
def test_what_no_cluster_can_do_is_told_before_ray_is_started(
    monkeypatch, address, options, message
):
    monkeypatch.setattr(presence, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=message), on_cluster(address, "nano", **options):
        pass


def test_another_state_of_the_sources_is_another_codegen(monkeypatch, tmp_path):
    here = versions.versions()
    assert here == versions.versions()
    versions.require_same(here, here, "this node")
    shutil.copytree(places.PACKAGE, tmp_path / "codegen_cli", ignore=shutil.ignore_patterns("data"))
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "codegen_cli")
    assert versions.versions() == here
    with (tmp_path / "codegen_cli" / "batch" / "line.py").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"node 10\.0\.0\.2 has codegen .* the driver 0\.1\.0"):
        versions.require_same(versions.versions(), here, "node 10.0.0.2")


@pytest.fixture
def driver_path(tmp_path):
    return write_packed(tmp_path / "driver" / "tiny.int8.safetensors")


@pytest.fixture
def model(driver_path, monkeypatch, tmp_path):
    """A model of the driver's, as a node that cannot see its file is told of it."""
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    header = read_packed_header(driver_path)
    model = shared_model(header, "tiny", "int8", None, piece_bytes=10_000)
    assert model.n_pieces > 5
    assert find_model(model) == driver_path
    return model._replace(path=tmp_path / "nowhere")


@pytest.fixture
def read(model, driver_path):
    return partial(read_piece, model._replace(path=driver_path))


def test_pieces_become_the_file_and_are_brought_once(model, read, driver_path):
    assert find_model(model) is None
    asked = []
    path = bring_model(model, lambda index: asked.append(index) or read(index))
    assert asked == list(range(model.n_pieces))
    assert path.read_bytes() == driver_path.read_bytes()
    assert path.parent == places.packed_copies_dir()
    assert bring_model(model, None) == path
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_model_that_the_node_has_by_name_is_taken_unless_it_is_another(model, driver_path):
    own = places.models_dir() / "tiny.int8.safetensors"
    write_packed(own, seed=4)
    assert find_model(model) is None
    shutil.copy(driver_path, own)
    assert find_model(model) == own


def test_a_piece_that_arrives_otherwise_leaves_nothing(model, read):
    def damaged(index):
        piece = read(index)
        if index == 3:
            piece.content[7] ^= 1
        return piece

    with pytest.raises(UserError, match="piece 3 of tiny did not arrive as it was sent"):
        bring_model(model, damaged)
    assert list(places.packed_copies_dir().iterdir()) == []


def test_a_file_that_is_damaged_at_the_driver_is_not_taken(model, read, driver_path):
    flip_bit(driver_path, -1)  # in a payload: its hash is not the one that the header states
    with pytest.raises(UserError, match="is damaged, or has changed while it was read"):
        bring_model(model, read)
    assert list(places.packed_copies_dir().iterdir()) == []


_BRING = """
import sys, time
from pathlib import Path
from codegen_cli.cluster.model_copy import bring_model, read_piece, shared_model
from quantize.packed.packed_header import read_packed_header
path = Path(sys.argv[1])
model = shared_model(read_packed_header(path), "tiny", "int8", None, piece_bytes=10_000)
def read(index):
    print(index, flush=True)
    sys.stdin.readline()
    return read_piece(model, index)
print(bring_model(model._replace(path=Path("/nowhere")), read))
"""


def test_of_two_workers_one_brings_it_and_if_it_dies_the_other(model, driver_path):
    def start():
        command = [sys.executable, "-c", _BRING, str(driver_path)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    first = start()
    assert first.stdout.readline() == "0\n"
    second = start()
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    told, _ = second.communicate("\n" * model.n_pieces, timeout=60)
    *asked, path = told.splitlines()
    assert asked == list(map(str, range(model.n_pieces)))
    assert Path(path).read_bytes() == driver_path.read_bytes()
    assert find_model(model) == Path(path)


_FROM_HUB = """
import sys
from pathlib import Path
from codegen_cli.cluster.model_copy import bring_model, shared_model
from quantize.packed.packed_header import read_packed_header
header = read_packed_header(Path(sys.argv[1]))
model = shared_model(header, "350M-mono", "int8", "350M-mono")._replace(path=Path("/nowhere"))
print(bring_model(model, None))
"""


def test_from_the_hub_it_is_the_driver_s_or_refused(tmp_path):
    config = small_config()
    repository = "Salesforce/codegen-350M-mono"

    def files(seed):
        made = tmp_path / f"made{seed}"
        write_checkpoint(made, config, random_tensors(config, seed))
        return {path.name: path.read_bytes() for path in made.iterdir()}

    def run(hub, home, *command):
        env = environment(hub.url, tmp_path / home / "hf", CODEGEN_HOME=str(tmp_path / home))
        command = [sys.executable, *command]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, cwd=Path.cwd()
        )

    download = ("-m", "codegen_cli", "download", "350M-mono", "--format", "int8")
    with HubServer({repository: Repository(files(1))}) as hub:
        packed = run(hub, "driver", *download).stdout.strip()
        found = run(hub, "node", "-c", _FROM_HUB, packed)
        assert Path(found.stdout.strip()).read_bytes() == Path(packed).read_bytes(), found.stderr
    with HubServer({repository: Repository(files(2))}) as hub:
        refused = run(hub, "another", "-c", _FROM_HUB, packed)
    assert "is not what the driver has" in refused.stderr
