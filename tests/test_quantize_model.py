"""A checkpoint becomes a packed file that holds its weights, rounded, or is refused by name."""

import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    CONTAINERS,
    DTYPES,
    random_tensors,
    small_config,
    stored_values,
    write_checkpoint,
)

from quantize.description.tensor_map import tensor_specs
from quantize.files.errors import UserError
from quantize.packed import layout
from quantize.packed.packed_file import PackedTensor, read_packed_file
from quantize.quantize_model import TensorReport, quantize
from quantize.rounding import groups
from quantize.rounding.rounding_process import shared_process

FORMATS = ("int8", "int4", "f16")
# Neither bands nor groups are filled: qkv_proj is [120, 40], fc_in [160, 40], lm_head [97, 40].
CONFIG = small_config(n_embd=40, vocab_size=97)
TENSORS = random_tensors(CONFIG, 11)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", CONFIG, TENSORS)


def restored(tensor: PackedTensor) -> np.ndarray:
    """The values of a packed tensor, f32 of its logical shape."""
    if tensor.format == "f32":
        return layout.unpack_f32(tensor.payload, tensor.shape)
    if tensor.format == "f16":
        return groups.dequantize_f16(layout.unpack_f16(tensor.payload, tensor.shape))
    unpack = {"int8": layout.unpack_int8, "int4": layout.unpack_int4}[tensor.format]
    dequantize = {"int8": groups.dequantize_int8, "int4": groups.dequantize_int4}[tensor.format]
    return dequantize(*unpack(tensor.payload, tensor.shape))[:, : tensor.shape[1]]


def rounded(weights: np.ndarray, format: str) -> np.ndarray:
    """What the definition of a format makes of weights, padding cut off."""
    if format == "f16":
        return weights.astype(np.float16).astype(np.float32)
    if format == "int8":
        return groups.dequantize_int8(*groups.quantize_int8(weights))[:, : weights.shape[1]]
    n_rows, n_in = weights.shape
    with (
        shared_process() as process,
        process.portion("int4", n_rows, n_in, is_half=False) as portion,
    ):
        portion.rows[:n_rows, :n_in] = weights
        process.round(portion)
        scales = portion.row_scales().copy()
    codes = groups.quantize_int4(weights, scales)
    return groups.dequantize_int4(codes, scales)[:, : weights.shape[1]]


def source_values(name: str, dtype: str) -> np.ndarray:
    return stored_values(TENSORS[name], dtype)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_packed_values_are_the_checkpoints_rounded(
    tmp_path: Path, container: str, dtype: str, format: str
) -> None:
    source = write_checkpoint(tmp_path / "model", CONFIG, TENSORS, container, dtype)
    quantize(source, tmp_path / "packed", format)
    packed = read_packed_file(tmp_path / "packed")
    assert packed.format == format
    for spec in tensor_specs(packed.config):
        tensor, values = packed.tensors[spec.name], stored_values(TENSORS[spec.source], dtype)
        if spec.kind == "vector":
            assert tensor.format == "f32"
            assert np.array_equal(restored(tensor), values)
            continue
        if spec.row_order is not None:
            values = values[spec.row_order]
        assert np.array_equal(restored(tensor), rounded(values, tensor.format)), spec.name


def test_int4_file_keeps_the_embedding_and_the_head_in_int8(
    checkpoint: Path, tmp_path: Path
) -> None:
    quantize(checkpoint, tmp_path / "packed", "int4")
    formats = {t.name: t.format for t in read_packed_file(tmp_path / "packed").tensors.values()}
    assert {name for name, format in formats.items() if format == "int8"} == {
        "wte.weight",
        "lm_head.weight",
    }
    assert formats["h.1.attn.qkv_proj.weight"] == formats["h.0.mlp.fc_out.weight"] == "int4"


def test_tied_model_has_one_tensor_for_embedding_and_head(tmp_path: Path) -> None:
    config = small_config(tie_word_embeddings=True)
    source = write_checkpoint(tmp_path / "model", config, random_tensors(config, 1))
    quantize(source, tmp_path / "packed", "int8")
    packed = read_packed_file(tmp_path / "packed")
    assert packed.config.tie_word_embeddings
    assert "lm_head.weight" not in packed.tensors
    assert packed.tensors["wte.weight"].format == "int8"


@pytest.mark.parametrize("format", FORMATS)
def test_the_size_of_portions_changes_nothing(
    checkpoint: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(checkpoint, tmp_path / "whole", format)
    monkeypatch.setattr("quantize.pack_tensor._PORTION_WEIGHTS", 1)  # 16 rows at a time
    quantize(checkpoint, tmp_path / "rows", format)
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "whole").read_bytes()


def test_no_tensor_is_in_memory_as_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(vocab_size=20000, n_layer=1)
    source = write_checkpoint(tmp_path / "model", config, random_tensors(config, 1), dtype="f32")
    monkeypatch.setattr("quantize.pack_tensor._PORTION_WEIGHTS", 1 << 14)

    def forget_reading_the_tokenizer(report: TensorReport) -> None:
        if report.index == 2:
            tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        quantize(source, tmp_path / "packed", "int8", on_tensor=forget_reading_the_tokenizer)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tokenizer_bytes = (source / "tokenizer.json").stat().st_size
    # The head is 5.1 MB as float32; a payload is 1.4 MB, and there is memory for two.
    assert peak_bytes - tokenizer_bytes < 4_500_000


def test_reports_count_the_tensors_and_tell_their_errors(checkpoint: Path, tmp_path: Path) -> None:
    reports: list[TensorReport] = []
    summary = quantize(checkpoint, tmp_path / "p", "int4", name="tiny", on_tensor=reports.append)
    packed = read_packed_file(tmp_path / "p")
    assert packed.name == "tiny"
    assert [report.name for report in reports] == list(packed.tensors)
    assert [report.index for report in reports] == list(range(1, len(reports) + 1))
    assert {report.count for report in reports} == {len(reports)}
    for report, spec in zip(reports, tensor_specs(packed.config), strict=True):
        tensor, values = packed.tensors[spec.name], source_values(spec.source, "f16")
        assert (report.format, report.shape) == (tensor.format, tensor.shape)
        if spec.row_order is not None:
            values = values[spec.row_order]
        error = restored(tensor).astype(float) - values
        expected = np.sqrt((error**2).sum() / (values.astype(float) ** 2).sum())
        assert report.relative_error == pytest.approx(expected, rel=1e-4)
    assert summary.worst == max(reports, key=lambda report: report.relative_error)
    assert 0.06 < summary.worst.relative_error < 0.09


def test_summary_tells_size_and_bits_per_weight(checkpoint: Path, tmp_path: Path) -> None:
    summary = quantize(checkpoint, tmp_path / "p", "int8")
    assert (summary.path, summary.bytes) == (tmp_path / "p", (tmp_path / "p").stat().st_size)
    tensors = read_packed_file(tmp_path / "p").tensors.values()
    n_bits = 8 * sum(tensor.payload.size for tensor in tensors)
    n_weights = sum(values.size for values in TENSORS.values())
    assert summary.bits_per_weight == n_bits / n_weights
    assert summary.seconds > 0


def test_all_zero_matrix_has_no_error(tmp_path: Path) -> None:
    tensors = TENSORS | {"lm_head.weight": np.zeros((97, 40), np.float32)}
    source = write_checkpoint(tmp_path / "model", CONFIG, tensors)
    reports: list[TensorReport] = []
    quantize(source, tmp_path / "p", "int8", on_tensor=reports.append)
    errors = {report.name: report.relative_error for report in reports}
    assert errors["lm_head.weight"] == 0
    assert not restored(read_packed_file(tmp_path / "p").tensors["lm_head.weight"]).any()


def test_packing_twice_gives_equal_bytes(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        quantize(checkpoint, tmp_path / name, "int4")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_provenance_names_the_source_and_its_files(checkpoint: Path, tmp_path: Path) -> None:
    quantize(checkpoint, tmp_path / "p", "int8")
    provenance = read_packed_file(tmp_path / "p").provenance
    assert provenance["source"] == "model"
    assert provenance["source_files"] == "model.safetensors"
    source_bytes = (checkpoint / "model.safetensors").stat().st_size
    assert provenance["source_bytes"] == str(source_bytes)
    assert provenance["writer"].startswith("codegen-complete ")


# --- refusals: nothing is left, the source is as it was ------------------------------------------


def contents(directory: Path) -> dict[str, str]:
    """Hashes of all files in and below a directory."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def refusal(source: Path, target: Path, format: str = "int8") -> UserError:
    before = contents(source), contents(target.parent)
    with pytest.raises(UserError) as caught:
        quantize(source, target, format)
    assert caught.value.hint
    assert (contents(source), contents(target.parent)) == before
    return caught.value


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize(
    "name", ["transformer.h.1.mlp.fc_out.weight", "transformer.h.0.attn.qkv_proj.weight"]
)
def test_a_value_beyond_fp16_is_refused_by_name(
    tmp_path: Path, name: str, dtype: str, format: str
) -> None:
    values = TENSORS[name].copy()
    values[-1, -1] = -70000
    source = write_checkpoint(tmp_path / "m", CONFIG, TENSORS | {name: values}, dtype=dtype)
    shown = {"bf16": "-70144", "f32": "-70000"}[dtype]
    message = refusal(source, tmp_path / "p", format).message
    assert f"{name} holds {shown}, need numbers from -65504 to 65504" in message


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("name", ["lm_head.weight", "transformer.h.0.ln_1.bias"])
def test_what_is_no_finite_number_is_refused_by_name(
    tmp_path: Path, name: str, value: float, shown: str
) -> None:
    values = TENSORS[name].copy()
    values.flat[3] = value
    source = write_checkpoint(tmp_path / "m", CONFIG, TENSORS | {name: values})
    assert f"{name} holds {shown}, need" in refusal(source, tmp_path / "p").message


def test_the_largest_fp16_is_kept(tmp_path: Path) -> None:
    values = TENSORS["lm_head.weight"].copy()
    values[5, 6] = 65504
    source = write_checkpoint(tmp_path / "m", CONFIG, TENSORS | {"lm_head.weight": values})
    quantize(source, tmp_path / "p", "f16")
    head = read_packed_file(tmp_path / "p").tensors["lm_head.weight"]
    assert restored(head)[5, 6] == 65504


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    tensors = {name: values for name, values in TENSORS.items() if name != "lm_head.bias"}
    source = write_checkpoint(tmp_path / "m", CONFIG, tensors)
    assert "lm_head.bias is missing, need [97]" in refusal(source, tmp_path / "p").message


def test_an_unknown_format_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    error = refusal(checkpoint, tmp_path / "p", "int3")
    assert "'int3'" in error.message
    assert "int8, int4, f16" in error.hint


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_no_file_of_the_source_is_a_target(checkpoint: Path, file: str) -> None:
    assert "is being read from" in refusal(checkpoint, checkpoint / file).message


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_no_target_takes_the_place_of_the_sources_weights(checkpoint: Path, file: str) -> None:
    message = refusal(checkpoint, checkpoint / file).message
    assert "would be read as the checkpoint's weights" in message
    assert not (checkpoint / file).exists()


@pytest.mark.parametrize("error", [BrokenPipeError(), RuntimeError(), UserError("x")])
def test_what_a_callback_raises_passes_and_leaves_no_file(
    checkpoint: Path, tmp_path: Path, error: BaseException
) -> None:
    def fail(report: TensorReport) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        quantize(checkpoint, tmp_path / "p", "int8", on_tensor=fail)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_file_size_limit_is_told_and_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    code = f"""
import resource
from pathlib import Path
from quantize.files.errors import UserError
from quantize.quantize_model import quantize
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    quantize(Path({str(checkpoint)!r}), Path({str(tmp_path / "p")!r}), "int8")
except UserError as error:
    print(error.message)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout == f"cannot write {tmp_path / 'p'}: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_what_transformers_ignores_is_left_out_with_a_note(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    unused = {
        "transformer.h.0.attn.rotary_emb.inv_freq": random.standard_normal(4),
        "transformer.h.1.attn.rotary_emb.inv_freq": random.standard_normal(4),
        "transformer.h.0.attn.masked_bias": np.float32(-1e9).reshape(()),
        "score.weight": random.standard_normal((2, CONFIG["n_embd"])),
        "score.bias": np.full(2, np.nan),
    }
    source = write_checkpoint(tmp_path / "more", CONFIG, TENSORS | unused, dtype="f32")
    summary = quantize(source, tmp_path / "more.packed", "int8")
    assert summary.notes[0] == (
        "left out, as the model computes nothing with them: "
        "transformer.h.*.attn.rotary_emb.inv_freq (2), transformer.h.*.attn.masked_bias, "
        "score.weight, score.bias"
    )
    plain = write_checkpoint(tmp_path / "plain", CONFIG, TENSORS, dtype="f32")
    quantized = quantize(plain, tmp_path / "plain.packed", "int8")
    assert quantized.warnings == summary.warnings
    assert quantized.notes == ()
    found, expected = (
        read_packed_file(tmp_path / f"{name}.packed").tensors for name in ("more", "plain")
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(restored(found[name]), restored(tensor))


def test_another_surplus_tensor_is_refused_by_name(tmp_path: Path) -> None:
    surplus = {"score.weight": np.ones(4), "transformer.wpe.weight": np.ones((4, 40))}
    source = write_checkpoint(tmp_path / "source", CONFIG, TENSORS | surplus)
    with pytest.raises(UserError, match=r"'transformer\.wpe\.weight' .* surplus") as caught:
        quantize(source, tmp_path / "packed", "int8")
    assert "score" not in caught.value.message
    assert "must be of one checkpoint" in caught.value.hint


def test_a_name_of_none_is_no_name(tmp_path: Path, checkpoint: Path) -> None:
    quantize(checkpoint, tmp_path / "packed", "int8", name=None)
    assert read_packed_file(tmp_path / "packed").name == ""
