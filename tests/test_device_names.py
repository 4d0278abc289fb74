"""Names of devices, and what is said where PyTorch, or the device, is not there."""

import importlib.util
import json
from pathlib import Path

import pytest

import codegen_cli
from codegen_cli.contract.device_name import KINDS, DeviceName, parse_device
from codegen_cli.session import device_choice, torch_presence
from quantize.files.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((kind, DeviceName(kind)) for kind in KINDS),
        ("cuda:1", DeviceName("cuda", (1,))),
        ("xpu:3", DeviceName("xpu", (3,))),
        ("cuda:1,cuda:0", DeviceName("cuda", (1, 0))),
    ],
)
def test_a_name_is_a_kind_and_numbers(text: str, expected: DeviceName) -> None:
    assert parse_device(text) == expected


def test_a_name_is_spelled_with_its_numbers() -> None:
    assert str(parse_device("cuda:0,cuda:2")) == "cuda:0,cuda:2"
    assert str(parse_device("mps")) == "mps"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tpu",
        "CUDA",
        "gpu",
        "cuda:",
        "cuda:-1",
        "cuda:1x",
        "cuda:12345",
        "mps:0",
        "cpu,cuda",
        "cuda:0,",
        "cuda:0,cuda:0",
        "cuda:0,xpu:1",
        "torch",
        "torch:cuda",
        "cuda:0 ",
        "cuda:\u0661",
        "x" * 10000,
    ],
)
def test_other_texts_are_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_device(text)
    assert "torch:cpu" in raised.value.hint
    assert len(raised.value.message) < 150


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_presence, "is_installed", lambda: False)


def test_a_gpu_without_pytorch_is_told_how_to_install_it(no_torch: None) -> None:
    with pytest.raises(UserError, match="cuda needs PyTorch, which is not installed") as raised:
        device_choice.choose_device("cuda")
    assert "pip install torch" in raised.value.hint


def test_the_default_device_is_named_where_it_cannot_be_used(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    assert device_choice.choose_device(None) == "cpu"
    (tmp_path / "settings.json").write_text('{"default_device": "mps"}')
    with pytest.raises(UserError) as raised:
        device_choice.choose_device(None)
    assert "codegen models default --device cpu" in raised.value.hint
    assert device_choice.choose_device("cpu") == "cpu"


def test_whose_driver_is_there_is_found_without_pytorch(tmp_path: Path) -> None:
    assert torch_presence.driver(tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kfd").touch()
    assert torch_presence.driver(tmp_path) == "AMD's"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    assert torch_presence.driver(tmp_path) == "NVIDIA's"


@pytest.mark.parametrize("device", [5, True, 0, Path("cuda"), b"cuda", ["cuda"]])
def test_a_device_that_is_no_text_is_a_type_error(device: object) -> None:
    with pytest.raises(TypeError, match=r"device is .*, need text"):
        codegen_cli.load("nano", device=device)


def test_doctor_tells_of_a_mistake_before_it_measures(codegen) -> None:
    result = codegen("doctor", "--device", "tpu", timeout=20)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"unknown device 'tpu'" in result.stderr


# --- the commands ---------------------------------------------------------------------------------

COMMANDS = (["complete", "x"], ["score", __file__], ["embed", "--json", __file__], ["bench"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_cannot_be_used_is_one_error(
    codegen, command: list[str], device: str
) -> None:
    result = codegen(*command, "--device", device)
    assert (result.returncode, result.stdout) == (1, b"")
    error, hint = result.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")


def test_auto_falls_back_to_the_cpu_and_says_why(codegen, compiled_kernels: None) -> None:
    result = codegen("complete", "-n", "2", "-t", "0", "x", CODEGEN_DEVICE="auto")
    assert (result.returncode, result.stdout) == (
        0,
        codegen("complete", "-q", "-n", "2", "-t", "0", "x").stdout,
    )
    assert b"running on the CPU: PyTorch" in result.stderr


def test_the_default_device_is_kept_beside_the_default_model(codegen, tmp_path: Path) -> None:
    def default(*arguments: str) -> dict[str, object]:
        result = codegen("models", "default", "--json", *arguments, CODEGEN_HOME=str(tmp_path))
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    assert default()["device"] == "cpu"
    assert default("--device", "auto", "nano") == {
        "default": "nano",
        "is_chosen": True,
        "device": "auto",
    }
    refused = codegen("models", "default", "--device", "tpu", "gone", CODEGEN_HOME=str(tmp_path))
    assert (refused.returncode, default()["device"], default()["default"]) == (1, "auto", "nano")
    told = codegen("models", "default", CODEGEN_HOME=str(tmp_path))
    assert told.stdout == b"nano\n"
    assert default("--device", "cpu")["device"] == "cpu"


def test_pytorch_is_not_imported_unless_it_is_asked_for(codegen, compiled_kernels: None) -> None:
    """Its import would take seconds: `-X importtime` lists every module that a start imports."""
    result = codegen("complete", "-q", "-n", "1", "x", PYTHONPROFILEIMPORTTIME="1")
    assert b"numpy" in result.stderr
    assert b"torch" not in result.stderr.replace(b"torch_presence", b"")


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_doctor_tells_what_to_install_where_it_is_asked_for_a_gpu(codegen) -> None:
    result = codegen("doctor", "--device", "cuda")
    assert result.returncode == 1
    assert b"cuda needs PyTorch, which is not installed." in result.stdout
    assert b"pip install torch" in result.stdout
