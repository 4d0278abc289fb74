"""Checkpoints in GPT-J's layout: how they are read, packed and declared; test_parity has logits."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    CONTAINERS,
    random_tensors,
    small_config,
    write_checkpoint,
    write_safetensors,
)
from real_tokenizer import TOKENIZER_JSON

from codegen_cli.models.inventory import describe
from codegen_cli.text.tokenizer import Tokenizer
from quantize.checkpoint.reading import open_checkpoint
from quantize.containers.source_tensor import SourceTensor, TensorStack
from quantize.description.config import parse_config
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile, read_packed_file
from quantize.packed.packed_header import read_packed_header
from quantize.quantize_model import quantize

CONFIG = small_config(model_type="gptj", n_layer=1)
TENSORS = random_tensors(CONFIG, 5)
SIX_HEADS = small_config(model_type="gptj", n_layer=1, n_head=6, n_embd=96)
CODEGEN = small_config(n_layer=1)

# The order in which moyix's converter takes the quarters of a CodeGen's shards for GPT-J.
CONVERTED = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def packed(source: Path, format: str = "int8") -> PackedFile:
    """The checkpoint's packed file, written beside it."""
    target = source.with_suffix(".packed")
    quantize(source, target, format)
    return read_packed_file(target)


def payload_hashes(file: PackedFile) -> dict[str, str]:
    return {name: tensor.sha256 for name, tensor in file.tensors.items()}


def in_gptj_layout(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A CodeGen's tensors as FauxPilot's codegen_gptj_convert.py leaves them."""
    converted = dict(tensors)
    for name in [name for name in tensors if "qkv_proj" in name]:
        rows = converted.pop(name)
        quarters = rows.reshape(12, -1, rows.shape[1])[CONVERTED]
        query, value, key = quarters.reshape(3, -1, rows.shape[1])
        parts = {"q_proj": query, "k_proj": key, "v_proj": value}
        converted |= {name.replace("qkv_proj", part): each for part, each in parts.items()}
    return converted


@pytest.mark.parametrize("format", ["int8", "int4", "f16"])
def test_a_codegen_in_gptj_layout_packs_to_the_same_model(tmp_path: Path, format: str) -> None:
    tensors = random_tensors(CODEGEN, 5)
    own = packed(write_checkpoint(tmp_path / "own", CODEGEN, tensors), format)
    converted = in_gptj_layout(tensors)
    other = packed(write_checkpoint(tmp_path / "other", CONFIG, converted), format)
    assert payload_hashes(other) == payload_hashes(own)
    assert other.config == own.config


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_packs_to_the_same_model(tmp_path: Path, container: str) -> None:
    plain = packed(write_checkpoint(tmp_path / "plain", CONFIG, TENSORS))
    other = packed(write_checkpoint(tmp_path / "other", CONFIG, TENSORS, container))
    assert payload_hashes(other) == payload_hashes(plain)


def test_portions_of_any_size_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "six", SIX_HEADS, random_tensors(SIX_HEADS, 5))
    whole = payload_hashes(packed(source))
    monkeypatch.setattr("quantize.pack_tensor._PORTION_WEIGHTS", 1)
    assert payload_hashes(packed(source)) == whole


def test_rows_of_a_stack_are_those_of_its_parts_under_one_another() -> None:
    values = np.arange(2 * 9, dtype=np.float32).reshape(9, 2)
    parts = tuple(SourceTensor("x", "F32", (3, 2), values[i : i + 3]) for i in (0, 3, 6))
    stack = TensorStack(parts)
    np.testing.assert_array_equal(stack.read_float32(), values)
    for start in range(9):
        for stop in range(start + 1, 10):
            rows = np.empty((stop - start, 2), np.float32)
            stack.read_into(rows, slice(start, stop))
            np.testing.assert_array_equal(rows, values[start:stop])


def test_query_key_and_value_may_be_of_different_types(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "gptj", CONFIG, TENSORS, dtype="f16")
    expected = payload_hashes(packed(source))
    key = "transformer.h.0.attn.k_proj.weight"
    tensors = {name: ("F16", values.astype("<f2")) for name, values in TENSORS.items()}
    tensors[key] = ("F32", tensors[key][1].astype("<f4"))
    write_safetensors(source / "model.safetensors", tensors)
    assert payload_hashes(packed(source)) == expected


def test_masks_of_older_checkpoints_are_left_out_with_a_note(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "old", CONFIG, TENSORS, "torch")
    names = ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")
    assert open_checkpoint(source).unused == names
    (note,) = quantize(source, tmp_path / "packed", "int8").notes
    assert note == (
        "left out, as the model computes nothing with them: "
        "transformer.h.*.attn.bias, transformer.h.*.attn.masked_bias"
    )


def test_a_number_that_fp16_lacks_is_refused_by_the_names_it_may_have(tmp_path: Path) -> None:
    name = "transformer.h.0.attn.k_proj.weight"
    source = write_checkpoint(
        tmp_path / "bad", CONFIG, TENSORS | {name: np.full((64, 64), 1e5)}, dtype="f32"
    )
    with pytest.raises(UserError, match=rf"{name} holds 100000, need numbers from -65504 to"):
        quantize(source, tmp_path / "packed", "int8")


def test_layouts_of_weights_and_config_must_agree(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "mixed", CODEGEN, TENSORS)
    with pytest.raises(UserError, match=r"attn\.qkv_proj\.weight is missing, need \[192, 64\]"):
        quantize(source, tmp_path / "packed", "int8")


def judge_as_the_first_readers_do(config: Mapping[str, object]) -> None:
    """What releases before GPT-J asked of a packed file's config, as far as a layout goes.

    All else in a packed file they judge by dimensions that either layout has.
    """
    if config.get("model_type") != "codegen":
        raise ValueError(f"has model_type {config.get('model_type')!r}, need model_type 'codegen'")
    mp_num = config.get("mp_num", 4)
    if mp_num not in (4, 8):
        raise ValueError(f"mp_num is {mp_num!r}, need 4 or 8")
    if config["n_head"] % mp_num:
        raise ValueError(f"n_head is {config['n_head']}, need a multiple of {mp_num}")


def stated_config(path: Path) -> dict[str, object]:
    return json.loads(read_packed_header(path).fields["__metadata__"]["config"])


def test_the_first_readers_take_a_packed_gptj_whose_heads_are_a_multiple_of_4(
    tmp_path: Path,
) -> None:
    file = packed(write_checkpoint(tmp_path / "gptj", CONFIG, TENSORS))
    judge_as_the_first_readers_do(stated_config(file.path))
    assert file.config == parse_config(CODEGEN, "config.json")


def test_the_first_readers_refuse_any_other_by_its_model_type(tmp_path: Path) -> None:
    tensors = random_tensors(SIX_HEADS, 5)
    file = packed(write_checkpoint(tmp_path / "gptj", SIX_HEADS, tensors))
    with pytest.raises(ValueError, match="has model_type 'gptj', need model_type 'codegen'"):
        judge_as_the_first_readers_do(stated_config(file.path))
    assert file.config == parse_config(SIX_HEADS, "config.json")


def test_what_there_is_of_a_gptj_tells_its_layout(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "gptj", CONFIG, TENSORS)
    assert describe(str(source)).dimensions["model_type"] == "gptj"
    file = packed(source)
    assert file.provenance["source_model_type"] == "gptj"
    assert describe(str(file.path)).provenance[str(file.path)] == file.provenance


def test_a_packed_codegen_has_no_word_of_layouts(tmp_path: Path) -> None:
    """Its bytes stay those that were written before there were two."""
    file = packed(write_checkpoint(tmp_path / "own", CODEGEN, random_tensors(CODEGEN, 5)))
    assert file.provenance.keys() == {"writer", "source", "source_files", "source_bytes"}
    assert list(stated_config(file.path)) == [
        "model_type",
        "n_layer",
        "n_head",
        "n_embd",
        "n_inner",
        "rotary_dim",
        "vocab_size",
        "n_positions",
        "layer_norm_epsilon",
        "tie_word_embeddings",
        "activation_function",
        "mp_num",
        "eos_token_id",
    ]


@pytest.fixture(scope="module")
def gptj_tokenizer_json() -> bytes:
    """GPT-J-6B's: GPT-2's, and 143 tokens that fill its 50400 ids."""
    fields = json.loads(TOKENIZER_JSON)
    end_of_text, space = fields["added_tokens"][:2]
    fields["added_tokens"] = [
        end_of_text,
        *(space | {"id": 50256 + i, "content": f"<|extratoken_{i}|>"} for i in range(1, 144)),
    ]
    return json.dumps(fields).encode()


def test_gptj_6b_tokenizer_fills_its_vocabulary(tmp_path: Path, gptj_tokenizer_json: bytes) -> None:
    config = CONFIG | {"vocab_size": 50400, "n_embd": 16, "rotary_dim": 4, "n_inner": 8}
    source = write_checkpoint(tmp_path / "gptj", config, random_tensors(config, 1))
    (source / "tokenizer.json").write_bytes(gptj_tokenizer_json)
    summary = quantize(source, tmp_path / "packed", "int8")
    assert summary.warnings == ()
    file = read_packed_file(tmp_path / "packed")
    assert file.tokenizer_json == gptj_tokenizer_json
    tokenizer = Tokenizer.from_packed(file)
    assert tokenizer.missing_ids(50400) == []
    assert tokenizer.end_ids(file.config.eos_token_id) == {50256}
    # As transformers' GPT2Tokenizer: blanks are no tokens of their own here.
    ids = [4299, 376, 25, 198, 220, 220, 220, 1441, 50257, 50399]
    assert tokenizer.encode("def F:\n    return<|extratoken_1|><|extratoken_143|>") == ids
    assert tokenizer.decode(ids) == "def F:\n    return<|extratoken_1|><|extratoken_143|>"


def test_a_gptj_is_packed_and_completes(codegen, compiled_kernels: None, tmp_path: Path) -> None:
    config = SIX_HEADS | {"vocab_size": 50400}
    tensors = random_tensors(config, 3)
    source = write_checkpoint(tmp_path / "gptj", config, tensors, "torch-sharded")
    target = str(tmp_path / "mine.safetensors")
    result = codegen("quantize", "-q", str(source), "--format", "int4", "-o", target)
    assert (result.returncode, result.stderr) == (0, b"")
    run = codegen("complete", "-m", target, "-t", "0", "-n", "4", "--until", "none", "def f(")
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout
