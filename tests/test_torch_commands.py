"""The commands with --device torch:cpu beside those without, and doctor about PyTorch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codegen_cli.contract.device_name import DeviceName
from quantize.files.errors import UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from codegen_cli.engine_torch import devices  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_kernels")

PROMPT = "def area(width, height):\n"


@pytest.mark.parametrize("options", [["-t", "0"], ["--seed", "3"], ["--seed", "4", "--draft", "0"]])
def test_completions_draw_the_same_numbers(codegen, options: list[str]) -> None:
    """The same seeds on both engines: texts differ only where two tokens are as good as equal."""
    both = [
        codegen("complete", "--json", "-n", "40", *options, "--device", device, PROMPT)
        for device in ("cpu", "torch:cpu")
    ]
    texts = [json.loads(result.stdout)["choices"][0]["text"] for result in both]
    assert texts[0]
    assert texts[0] == texts[1]


def test_scores_and_vectors_agree(codegen) -> None:
    file = str(Path(__file__).parent / "oracle.py")
    scores, vectors = [], []
    for device in ("cpu", "torch:cpu"):
        result = codegen("score", "--json", "--device", device, file)
        scores.append(json.loads(result.stdout)["total"]["bits_per_byte"])
        result = codegen("embed", "--json", "--device", device, file)
        vectors.append(json.loads(result.stdout)["embedding"])
    assert abs(scores[0] - scores[1]) < 2e-3  # measured: 2e-4
    found, expected = map(np.array, vectors)
    assert np.dot(found, expected) > 0.999 * np.linalg.norm(found) * np.linalg.norm(expected)


def test_a_deadline_ends_a_completion(codegen) -> None:
    result = codegen(
        "complete",
        "--device",
        "torch:cpu",
        "--until",
        "none",
        "-n",
        "1000",
        "--max-time",
        "5",
        "-t",
        "2",
        "--usage",
        PROMPT,
    )
    assert result.returncode == 0
    assert b", time, seed" in result.stderr


def test_doctor_tells_of_pytorch_and_of_what_it_finds(codegen) -> None:
    report = json.loads(codegen("doctor", "--json").stdout)["gpus"]
    assert report == {
        "driver": report["driver"],
        "torch": torch.__version__,
        "found": None,
        "obstacle": "",
    }
    report = json.loads(codegen("doctor", "--json", "--device", "torch:cpu").stdout)["gpus"]
    [gpu] = report["found"]
    assert gpu["name"] == "CPU by PyTorch"
    assert gpu["copy_bytes_per_second"] > 1e8


FAILS_AFTER_TEN_STEPS = """
import itertools, sys, torch
from codegen_cli.engine_torch.torch_engine import TorchEngine
from codegen_cli.__main__ import main

steps, step = itertools.count(), TorchEngine._read_on

def step_or_fail(*arguments):
    if next(steps) == 10:
        raise torch.{error}("CUDA error: as the driver says\\nand more")
    step(*arguments)

TorchEngine._read_on = step_or_fail
sys.argv = ["codegen", "complete", "--device", "torch:cpu", "--draft", "0", "-t", "0", sys.argv[1]]
main()
"""


@pytest.mark.parametrize(
    ("error", "told"),
    [("OutOfMemoryError", "the device has no memory left"), ("AcceleratorError", "has failed")],
)
def test_a_device_that_fails_leaves_the_text_so_far(codegen, error: str, told: str) -> None:
    whole = codegen("complete", "-t", "0", "--draft", "0", "--device", "torch:cpu", PROMPT)
    script = FAILS_AFTER_TEN_STEPS.replace("{error}", error)
    command = [sys.executable, "-c", script, PROMPT]
    ran = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert len(ran.stdout) > 10
    assert whole.stdout.startswith(ran.stdout)
    message, hint = ran.stderr.decode().strip().splitlines()
    assert told in message
    assert message.endswith("CUDA error: as the driver says")
    assert hint.startswith("hint: ")


def test_the_benchmark_for_gpus_writes_its_table(tmp_path: Path) -> None:
    """On a model of two narrow layers: its numbers mean nothing, but all that makes them runs."""
    script = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
    options = ["--device", "torch:cpu", "--sizes", "tiny", "--rounds", "1", "--steps", "2"]
    places = ["--directory", str(tmp_path), "-o", str(tmp_path / "table.md")]
    subprocess.run([sys.executable, str(script), *options, *places], check=True, timeout=120)
    table = (tmp_path / "table.md").read_text()
    assert re.findall(r"^\| codegen (\w+) \|", table, re.M) == ["int8", "int4", "f16"]
    assert list(tmp_path.iterdir()) == [tmp_path / "table.md"]


# --- devices that are not here: what PyTorch would say of them is said by the test ---------------


def test_a_build_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices._STATES, "cuda", (lambda: False, lambda: False, str))
    with pytest.raises(UserError, match="was built without CUDA or ROCm") as raised:
        devices.find_devices(DeviceName("cuda"))
    assert devices.PYTORCH_PAGE in raised.value.hint


def test_what_the_driver_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def why() -> str:
        return "The NVIDIA driver on your system is too old (found version 11040)."

    monkeypatch.setitem(devices._STATES, "cuda", (lambda: True, lambda: False, why))
    with pytest.raises(UserError, match=r"finds no GPU for cuda: The NVIDIA driver .* too old"):
        devices.find_devices(DeviceName("cuda"))


def test_a_number_beyond_the_devices_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices._STATES, "cuda", (lambda: True, lambda: True, str))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="there is no cuda:2: PyTorch finds cuda:0 to cuda:1"):
        devices.find_devices(DeviceName("cuda", (0, 2)))
