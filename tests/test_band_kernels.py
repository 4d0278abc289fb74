"""The compiled kernels that round fill payloads as groups.py and layout.py define them."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from quantize.packed import layout
from quantize.quantize_model import TensorReport, quantize
from quantize.rounding import groups
from quantize.rounding.rounding_process import Portion, new_portion, round_here

FORMATS = ("int8", "int4", "f16")


def weights_of_every_kind() -> np.ndarray:
    """f32 [n_out, 150]; neither bands nor groups are filled."""
    random = np.random.RandomState(4)
    normal = random.standard_normal((70, 150))
    kinds = [
        normal,
        random.standard_t(3, (40, 150)) * 0.02,
        np.abs(normal[:20]),
        -np.abs(normal[:20]),
        normal[:20] * (random.uniform(size=(20, 150)) < 0.1),
        np.full((3, 150), 0.3),
        np.round(normal[:20] * 4) / 4,  # halves between codes
        np.zeros((2, 150)),
        np.clip(normal[:5] * 40000, -65504, 65504),
        *(normal[:20] * 10.0**power for power in (-4, -5, -6, -7, -8)),  # fp16's subnormals
        normal[:20] * 1e-41,  # float32's
    ]
    return np.concatenate(kinds).astype(np.float32)


def rounded(rows: np.ndarray, format: str) -> tuple[Portion, tuple[float, float, float]]:
    """What the kernels make of rows of f32 or fp16."""
    portion = new_portion(format, *rows.shape, is_half=rows.dtype == np.float16)
    portion.rows[: len(rows), : rows.shape[1]] = rows
    return portion, round_here(portion)


def payload(portion: Portion) -> bytes:
    content = portion.codes.tobytes() + portion.scales.tobytes()
    return content + bytes(-len(content) % 64)


def defined(rows: np.ndarray, format: str) -> tuple[bytes, np.ndarray]:
    """The payload of rows by the definition, and the values that it stands for."""
    weights, n_in = rows.astype(np.float32), rows.shape[1]
    if format == "f16":
        half = groups.quantize_f16(weights)
        return layout.pack_f16(half).tobytes(), groups.dequantize_f16(half)
    if format == "int8":
        codes, scales = groups.quantize_int8(weights)
        values = groups.dequantize_int8(codes, scales)
        return layout.pack_int8(codes, scales).tobytes(), values[:, :n_in]
    scales = rounded(rows, format)[0].row_scales()  # test_scale_search.py judges them
    codes = groups.quantize_int4(weights, scales)
    values = groups.dequantize_int4(codes, scales)
    return layout.pack_int4(codes, scales).tobytes(), values[:, :n_in]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("format", FORMATS)
def test_a_payload_is_as_it_is_defined(format: str, dtype: type) -> None:
    rows = weights_of_every_kind().astype(dtype)
    portion, (squared_error, squared_weights, largest) = rounded(rows, format)
    expected, values = defined(rows, format)
    assert payload(portion) == expected
    weights = rows.astype(np.float64)
    assert squared_error == pytest.approx(((values - weights) ** 2).sum(), rel=1e-5)
    assert squared_weights == pytest.approx((weights**2).sum(), rel=1e-5)
    assert largest == np.abs(weights).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_fp16_is_kept(dtype: type) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = patterns[np.isfinite(patterns)].reshape(-1, 64)
    portion, (squared_error, *_) = rounded(finite.astype(dtype), "f16")
    assert payload(portion) == layout.pack_f16(finite).tobytes()
    assert squared_error == 0


def test_float32_is_rounded_to_the_nearest_fp16_and_between_two_to_the_even_one() -> None:
    patterns = np.arange(0x7BFF, dtype=np.uint16)
    low, high = (patterns + step for step in (0, 1))
    middle = (low.view(np.float16).astype(np.float32) + high.view(np.float16)) / np.float32(2)
    below, above = (np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf))
    rows = np.stack([below, middle, above, -middle])
    portion, _ = rounded(rows, "f16")
    assert payload(portion) == layout.pack_f16(rows.astype(np.float16)).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_finite_is_no_magnitude_of_fp16(format: str, dtype: type, value: float) -> None:
    rows = np.ones((3, 40), dtype)
    rows[1, 7] = value
    assert not rounded(rows, format)[1][2] <= groups.F16_MAX


def test_rows_of_padding_hold_zeros() -> None:
    portion, _ = rounded(np.ones((3, 40), np.float32), "int4")
    assert not portion.codes.reshape(2, 4, 16, 4)[:, :, 3:].any()
    assert not portion.scales.reshape(2, 16)[:, 3:].any()


HASHES = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_band_kernels import FORMATS, payload, rounded, weights_of_every_kind
for format in FORMATS:
    print(hashlib.sha256(payload(rounded(weights_of_every_kind(), format)[0])).hexdigest())
"""


def test_a_cpu_without_fma_and_wide_registers_gets_the_same_bytes() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HASHES, str(Path(__file__).parent)],
        env=os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [payload(rounded(weights_of_every_kind(), format)[0]) for format in FORMATS]
    assert ran.stdout.split() == [hashlib.sha256(content).hexdigest() for content in here]


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("format", ["int8", "f16"])
def test_a_large_model_in_another_process_gets_the_bytes_of_a_small_one_in_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, dtype: str
) -> None:
    config = small_config(n_embd=40, vocab_size=97)
    source = write_checkpoint(tmp_path / "m", config, random_tensors(config, 1), dtype=dtype)
    errors: dict[str, list[float]] = {"here": [], "there": []}

    def packed(where: str) -> bytes:
        on_tensor = lambda report: errors[where].append(report.relative_error)  # noqa: E731
        quantize(source, tmp_path / where, format, on_tensor=on_tensor)
        return (tmp_path / where).read_bytes()

    here = packed("here")
    monkeypatch.setattr("quantize.quantize_model._WORTH_A_PROCESS", 0)
    assert packed("there") == here
    assert errors["there"] == pytest.approx(errors["here"], rel=1e-4)


def test_rows_too_long_for_shared_memory_are_rounded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(n_embd=40, vocab_size=97)
    source = write_checkpoint(tmp_path / "m", config, random_tensors(config, 1))
    quantize(source, tmp_path / "shared", "int4")
    monkeypatch.setattr("quantize.rounding.rounding_process._SLOT_BYTES", 1000)
    monkeypatch.setattr("quantize.rounding.rounding_process._shared", None)
    monkeypatch.setattr("quantize.rounding.rounding_process._n_users", 0)
    quantize(source, tmp_path / "alone", "int4")
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "shared").read_bytes()


def test_reports_tell_how_many_weights_are_done(tmp_path: Path) -> None:
    config = small_config()
    tensors = random_tensors(config, 1)
    reports: list[TensorReport] = []
    source = write_checkpoint(tmp_path / "m", config, tensors)
    quantize(source, tmp_path / "p", "int8", on_tensor=reports.append)
    n_weights = sum(values.size for values in tensors.values())
    assert reports[-1].done_weights == reports[0].n_weights == n_weights
    steps = np.diff([0, *(report.done_weights for report in reports)])
    assert [int(step) for step in steps] == [int(np.prod(each.shape)) for each in reports]
