"""The table of tensors holds CodeGen's names, shapes and row orders, and nothing slips past it."""

import numpy as np
import pytest
from checkpoints import parameter_shapes, random_tensors, small_config

from quantize.containers.source_tensor import SourceTensor
from quantize.description.config import parse_config
from quantize.description.tensor_map import (
    is_unused,
    listed,
    match_tensors,
    qkv_row_order,
    tensor_specs,
)
from quantize.files.errors import UserError

CONFIG = parse_config(small_config(), "config.json")
GPTJ = parse_config(small_config(model_type="gptj"), "config.json")
TIED = parse_config(small_config(tie_word_embeddings=True), "config.json")


def source_tensors(**config: object) -> dict[str, SourceTensor]:
    return {
        name: SourceTensor(name, "F32", values.shape, values)
        for name, values in random_tensors(small_config(**config), 1).items()
    }


def refusal(tensors: dict[str, SourceTensor], config: object = CONFIG) -> UserError:
    with pytest.raises(UserError) as caught:
        match_tensors(tensor_specs(config), tensors)
    return caught.value


def test_specs_name_every_parameter_of_a_checkpoint() -> None:
    specs = tensor_specs(CONFIG)
    assert {spec.source: spec.shape for spec in specs} == dict(parameter_shapes(small_config()))
    assert len({spec.name for spec in specs}) == len(specs)


def test_specs_follow_the_forward_pass() -> None:
    names = [spec.name for spec in tensor_specs(CONFIG)]
    assert names[:9] == [
        "wte.weight",
        "h.0.ln_1.weight",
        "h.0.ln_1.bias",
        "h.0.attn.qkv_proj.weight",
        "h.0.mlp.fc_in.weight",
        "h.0.mlp.fc_in.bias",
        "h.0.attn.out_proj.weight",
        "h.0.mlp.fc_out.weight",
        "h.0.mlp.fc_out.bias",
    ]
    assert names[9] == "h.1.ln_1.weight"
    assert names[-4:] == ["ln_f.weight", "ln_f.bias", "lm_head.weight", "lm_head.bias"]


def test_kind_follows_the_number_of_dimensions() -> None:
    assert all((len(spec.shape) == 2) == (spec.kind == "matrix") for spec in tensor_specs(CONFIG))


def test_only_qkv_rows_are_reordered() -> None:
    ordered = [spec.name for spec in tensor_specs(CONFIG) if spec.row_order is not None]
    assert ordered == ["h.0.attn.qkv_proj.weight", "h.1.attn.qkv_proj.weight"]


@pytest.mark.parametrize("n_head", [4, 8, 16])
def test_qkv_rows_become_head_major(n_head: int) -> None:
    """Against the order in which transformers' CodeGenAttention joins the 4 shards."""
    config = parse_config(small_config(n_head=n_head, rotary_dim=4), "config.json")
    # In units of n_embd / 4 rows: the queries, the keys, the values of all heads.
    chunks = np.arange(12 * 16).reshape(12, 16)
    query, key, value = chunks[[0, 3, 6, 9]], chunks[[2, 5, 8, 11]], chunks[[1, 4, 7, 10]]
    by_head = [part.reshape(n_head, config.head_dim) for part in (query, key, value)]
    expected = [part[head] for head in range(n_head) for part in by_head]
    np.testing.assert_array_equal(qkv_row_order(config), np.concatenate(expected))


@pytest.mark.parametrize("n_head", [8, 16])
def test_rows_of_8_shards_become_head_major(n_head: int) -> None:
    """Against the order in which CodeGen2-1B's own CodeGenAttention joins its 8 shards."""
    config = parse_config(small_config(n_head=n_head, rotary_dim=4, mp_num=8), "config.json")
    # In units of n_embd / 8 rows: query, value, key of each shard.
    chunks = np.arange(24 * 8).reshape(24, 8)
    by_head = [chunks[part::3].reshape(n_head, config.head_dim) for part in (0, 2, 1)]
    expected = [part[head] for head in range(n_head) for part in by_head]
    np.testing.assert_array_equal(qkv_row_order(config), np.concatenate(expected))


def test_tied_model_has_one_matrix_for_both_ends() -> None:
    names = [spec.name for spec in tensor_specs(TIED)]
    assert "lm_head.weight" not in names
    assert names[-1] == "lm_head.bias"


def test_every_spec_is_paired_with_its_source() -> None:
    tensors = source_tensors()
    specs = tensor_specs(CONFIG)
    pairs = match_tensors(specs, dict(reversed(tensors.items())))
    assert [spec for spec, _ in pairs] == specs
    assert all(rows.parts == (tensors[spec.source],) for spec, rows in pairs)


def test_gptj_differs_in_the_sources_of_one_matrix() -> None:
    """They are as many rows under one another, in the order of the only shard."""
    own, specs = tensor_specs(CONFIG), tensor_specs(GPTJ)
    assert [(spec.name, spec.shape, spec.kind) for spec in specs] == [
        (spec.name, spec.shape, spec.kind) for spec in own
    ]
    different = [spec for spec, other in zip(specs, own, strict=True) if spec != other]
    assert [spec.name for spec in different] == [f"h.{i}.attn.qkv_proj.weight" for i in range(2)]
    assert different[1].sources == tuple(f"transformer.h.1.attn.{x}_proj.weight" for x in "qvk")
    assert different[1].source_shape == (64, 64)


def test_specs_name_every_parameter_of_a_gptj_checkpoint() -> None:
    shapes = {source: spec.source_shape for spec in tensor_specs(GPTJ) for source in spec.sources}
    assert shapes == dict(parameter_shapes(small_config(model_type="gptj")))


@pytest.mark.parametrize("n_head", [1, 2, 3, 6, 8])
def test_rows_of_gptj_become_head_major(n_head: int) -> None:
    config = small_config(model_type="gptj", n_head=n_head, n_embd=48, rotary_dim=2)
    tensors = {
        name: SourceTensor(name, "F32", values.shape, values)
        for name, values in random_tensors(config, 1).items()
    }
    query, key, value = (
        tensors[f"transformer.h.1.attn.{x}_proj.weight"].data.reshape(n_head, -1, 48) for x in "qkv"
    )
    expected = [part[head] for head in range(n_head) for part in (query, key, value)]
    specs = tensor_specs(parse_config(config, "config.json"))
    (pair,) = [pair for pair in match_tensors(specs, tensors) if "h.1.attn.qkv" in pair[0].name]
    rows = pair[1].read_float32()[pair[0].row_order]
    np.testing.assert_array_equal(rows, np.concatenate(expected))


def test_layouts_are_not_mixed() -> None:
    """Both ways the tensor that is missing is named, and those that are there instead."""
    message = refusal(source_tensors(model_type="gptj")).message
    assert "transformer.h.0.attn.qkv_proj.weight is missing, need [192, 64]" in message
    assert "'transformer.h.0.attn.k_proj.weight' [64, 64] is surplus" in message
    message = refusal(source_tensors(), GPTJ).message
    assert "transformer.h.0.attn.q_proj.weight is missing, need [64, 64]" in message
    assert "'transformer.h.0.attn.qkv_proj.weight' [192, 64] is surplus" in message


def test_misshapen_and_surplus_tensors_of_gptj_are_named() -> None:
    tensors = source_tensors(model_type="gptj")
    name = "transformer.h.1.attn.v_proj.weight"
    tensors[name] = SourceTensor(name, "F32", (32, 64), np.zeros((32, 64)))
    bias = "transformer.h.1.attn.q_proj.bias"
    tensors[bias] = SourceTensor(bias, "F32", (64,), np.zeros(64))
    message = refusal(tensors, GPTJ).message
    assert f"{name} is [32, 64], need [64, 64]" in message
    assert f"'{bias}' [64] is surplus" in message


def test_missing_tensor_is_named() -> None:
    tensors = source_tensors()
    del tensors["transformer.h.1.mlp.fc_in.weight"]
    error = refusal(tensors)
    assert error.message == (
        "the checkpoint does not fit its config.json: "
        "transformer.h.1.mlp.fc_in.weight is missing, need [256, 64]"
    )
    assert "must be of one checkpoint" in error.hint


def test_surplus_tensor_is_named() -> None:
    tensors = source_tensors()
    tensors["transformer.wpe.weight"] = SourceTensor("w", "F32", (9, 4), np.zeros((9, 4)))
    assert "'transformer.wpe.weight' [9, 4] is surplus" in refusal(tensors).message


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.attn.causal_mask",
        "transformer.h.19.attn.bias",
        "transformer.h.19.attn.masked_bias",
        "transformer.h.3.attn.embed_positions",
        "transformer.h.3.attn.rotary_emb.inv_freq",
        "transformer.rotary_emb.inv_freq",
        "inv_freq",
        "score.weight",
        "score.bias",
        "qa_outputs.weight",
        "qa_outputs.bias",
    ],
)
def test_what_transformers_does_not_read_is_unused(name: str) -> None:
    assert is_unused(name)
    for other in (f"x{name}x", f"{name}.weight", name.replace(".", "_") + "_"):
        assert not is_unused(other)


def test_no_parameter_is_unused() -> None:
    assert not any(is_unused(spec.source) for spec in tensor_specs(CONFIG))
    for name in ("transformer.h.0.attn.qkv_proj.bias", "attn.bias", "h.0.attn.bias", "v.weight"):
        assert not is_unused(name)


def test_tensors_of_all_layers_are_listed_as_one() -> None:
    masks = [f"transformer.h.{layer}.attn.causal_mask" for layer in range(20)]
    assert listed([*masks, "score.weight"]) == (
        "transformer.h.*.attn.causal_mask (20), score.weight"
    )
    assert listed(f"n{i}.inv_freq" for i in range(10)).endswith("n7.inv_freq and 2 more")
    assert len(listed(["x" * 10_000 + ".inv_freq"])) < 500


def test_misshapen_tensor_is_named_with_both_shapes() -> None:
    tensors = source_tensors(n_inner=100)
    assert "transformer.h.0.mlp.fc_in.bias is [100], need [256]" in refusal(tensors).message


def test_transposed_tensor_is_misshapen() -> None:
    tensors = source_tensors()
    name = "transformer.h.0.mlp.fc_out.weight"
    tensors[name] = SourceTensor(name, "F32", (256, 64), np.zeros((256, 64)))
    assert f"{name} is [256, 64], need [64, 256]" in refusal(tensors).message


def test_needed_tensor_of_whole_numbers_is_named() -> None:
    tensors = source_tensors()
    tensors["lm_head.bias"] = SourceTensor("lm_head.bias", "I32", (96,), np.zeros(96, np.int32))
    assert "lm_head.bias is I32, need one of F16, BF16, F32" in refusal(tensors).message


def test_all_problems_are_counted_and_the_first_are_named() -> None:
    message = refusal({}).message
    assert "transformer.wte.weight is missing" in message
    assert message.count("is missing") == 8
    assert message.endswith("; and 13 more")


def test_equal_head_of_a_tied_model_is_left_out() -> None:
    tensors = source_tensors(tie_word_embeddings=True)
    wte = tensors["transformer.wte.weight"]
    tensors["lm_head.weight"] = SourceTensor("lm_head.weight", "F32", wte.shape, wte.data.copy())
    pairs = match_tensors(tensor_specs(TIED), tensors)
    assert [spec.source for spec, _ in pairs].count("lm_head.weight") == 0


def test_different_head_of_a_tied_model_is_refused() -> None:
    tensors = source_tensors(tie_word_embeddings=True)
    values = tensors["transformer.wte.weight"].data.copy()
    values[-1, -1] += 1
    tensors["lm_head.weight"] = SourceTensor("lm_head.weight", "F32", values.shape, values)
    message = refusal(tensors, TIED).message
    assert "lm_head.weight [96, 64] differs from transformer.wte.weight" in message
    assert "tie_word_embeddings is true" in message


def test_tied_model_needs_its_head_bias() -> None:
    tensors = source_tensors(tie_word_embeddings=True)
    del tensors["lm_head.bias"]
    assert "lm_head.bias is missing, need [96]" in refusal(tensors, TIED).message
