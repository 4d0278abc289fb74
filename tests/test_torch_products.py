"""When the kernel multiplies and when the definition does; the kernel in Triton's interpreter."""

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.session.one_part import logits_of
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, torch and triton", allow_module_level=True)
torch = pytest.importorskip("torch", exc_type=ImportError)
pytest.importorskip("triton", exc_type=ImportError)

from codegen_cli.engine_torch import products as products_module  # noqa: E402
from codegen_cli.engine_torch import triton_product  # noqa: E402
from codegen_cli.engine_torch.devices import Device  # noqa: E402
from codegen_cli.engine_torch.kernel_check import check_kernel, random_matrix  # noqa: E402
from codegen_cli.engine_torch.packed_matrix import PackedMatrix  # noqa: E402
from codegen_cli.engine_torch.placement import Placement  # noqa: E402
from codegen_cli.engine_torch.products import Products  # noqa: E402
from codegen_cli.engine_torch.torch_engine import TorchEngine  # noqa: E402

CPU = torch.device("cpu")
FORMATS = ["int8", "int4", "f16"]
# The interpreter takes a tenth of a second for each band of a matrix.
CONFIG = small_config(
    n_positions=64, n_layer=1, n_head=4, n_embd=16, n_inner=32, rotary_dim=2, vocab_size=16
)
IDS = np.random.default_rng(1).integers(0, 16, 40).tolist()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_kernel_is_found_right(format: str, dtype: torch.dtype) -> None:
    check = check_kernel(random_matrix(format, (33, 72), CPU), dtype)
    assert check.is_right
    assert check.difference < 1e-5
    assert str(check).startswith(f"{format}: right, to ")


RIGHT = triton_product.triton_product


def wrong_scale(*arguments: object) -> torch.Tensor:
    return 1.001 * RIGHT(*arguments)


def wrong_for_eight(x: torch.Tensor, *arguments: object) -> torch.Tensor:
    y = RIGHT(x, *arguments)
    return y.index_fill(0, torch.tensor(7), torch.nan) if len(x) == 8 else y


def not_compiled(*arguments: object) -> torch.Tensor:
    raise RuntimeError("PassManager::run failed\nno such instruction")


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (wrong_scale, "int4: wrong, to 1e-03"),
        (wrong_for_eight, "int4: wrong, to nan"),
        (not_compiled, "int4: no such instruction"),
    ],
)
def test_a_kernel_that_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kernel, told: str
) -> None:
    matrix = random_matrix("int4", (16, 64), CPU)
    monkeypatch.setattr(triton_product, "triton_product", kernel)
    products = Products()
    products.admit([matrix], torch.float32)
    assert told in capsys.readouterr().err
    x = torch.ones(1, 64)
    assert torch.equal(products(matrix, x), matrix.product(x))


@pytest.fixture(scope="module", params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    checkpoint = write_checkpoint(directory, CONFIG, random_tensors(CONFIG, 3))
    quantize(checkpoint, directory / "packed", request.param)
    return directory / "packed"


def test_a_step_of_few_ids_makes_no_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = read_packed_file(path)
    placement = Placement((Device(CPU, "CPU", None, None),) * CONFIG["n_layer"])
    engine = TorchEngine(packed, placement, [torch.float32])
    whole = logits_of(engine, IDS, engine.new_cache())  # as defined: 40 ids are too many
    cache = engine.new_cache()
    with monkeypatch.context() as changes:
        changes.setattr(PackedMatrix, "product", None)
        parts = np.split(np.array(IDS[:20]), [1, 2, 5, 12])
        found = np.concatenate([logits_of(engine, ids, cache) for ids in parts])
        with pytest.raises(TypeError):
            logits_of(engine, IDS[:17], engine.new_cache())
    assert np.abs(found - whole[:20]).max() < 1e-4


def test_a_damaged_triton_is_told_and_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(name: str) -> None:
        raise ImportError("libtriton.so: cannot open shared object file\nmore")

    products_module.kernel_runs_on.cache_clear()
    monkeypatch.setattr(products_module.importlib, "import_module", damaged)
    matrix = random_matrix("int8", (16, 32), CPU)
    products, x = Products(), torch.ones(1, 32)
    products.admit([matrix], torch.float32)
    told = capsys.readouterr().err
    assert "Triton cannot be used, so the GPU is slower: libtriton.so" in told
    assert "more" not in told
    assert torch.equal(products(matrix, x), matrix.product(x))
    products.admit([matrix], torch.float16)
    assert capsys.readouterr().err == ""  # it was said
    products_module.kernel_runs_on.cache_clear()


def test_another_dtype_is_tried_before_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = random_matrix("int8", (16, 32), CPU)
    products, x = Products(), torch.ones(1, 32, dtype=torch.float32)
    products.admit([matrix], torch.float16)
    with monkeypatch.context() as changes:
        changes.setattr(PackedMatrix, "product", lambda matrix, x: "as defined")
        assert products(matrix, x) == "as defined"
    products.admit([matrix], torch.float32)
    monkeypatch.setattr(PackedMatrix, "product", None)
    assert products(matrix, x).shape == (1, 16)


def test_a_draft_changes_no_bit_of_a_product() -> None:
    """What a token gives does not depend on those beside it, in the kernel at least."""
    matrix = random_matrix("int4", (40, 96), CPU)
    x = torch.randn((16, 96), generator=torch.Generator().manual_seed(0))
    products = Products()
    products.admit([matrix], torch.float32)
    together = products(matrix, x)
    for token in range(16):
        assert torch.equal(products(matrix, x[token : token + 1])[0], together[token])
