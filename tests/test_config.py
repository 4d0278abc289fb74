"""config.json is believed only where it describes a CodeGen or GPT-J model."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import small_config

from quantize.description.config import (
    ACTIVATION_FUNCTIONS,
    ALIASES,
    HONOURED,
    OTHER_ATTENTION,
    WITHOUT_EFFECT,
    ModelConfig,
    config_fields,
    packed_config,
    parse_config,
    read_config,
)
from quantize.files.errors import UserError
from quantize.files.json_object import parse_json_object

SMALL = ModelConfig(
    n_layer=2,
    n_head=4,
    n_embd=64,
    n_inner=256,
    rotary_dim=8,
    vocab_size=96,
    n_positions=64,
    layer_norm_epsilon=1e-5,
    tie_word_embeddings=False,
)

SMALL_GPTJ = replace(SMALL, mp_num=1)

DOCUMENT = Path(__file__).parent.parent / "docs" / "config.md"

# CodeGenConfig().to_dict() of transformers 5.24.0, all but model_type; and GPTJConfig's.
CODEGEN_CONFIG = """
transformers_version architectures output_hidden_states return_dict dtype chunk_size_feed_forward
is_encoder_decoder id2label label2id problem_type vocab_size n_positions n_ctx n_embd n_layer n_head
rotary_dim n_inner activation_function resid_pdrop embd_pdrop attn_pdrop layer_norm_epsilon
initializer_range use_cache bos_token_id eos_token_id tie_word_embeddings
output_attentions _name_or_path
""".split()
GPTJ_CONFIG = [*(name for name in CODEGEN_CONFIG if name != "n_ctx"), "pad_token_id"]

CODEGEN2 = {
    "auto_map": {
        "AutoConfig": "configuration_codegen.CodeGenConfig",
        "AutoModel": "modeling_codegen.CodeGenModel",
        "AutoModelForCausalLM": "modeling_codegen.CodeGenForCausalLM",
    },
    "n_head": 8,
    "rotary_dim": 4,
    "eos_token_id": 2,
}


def refusal(**changes: object) -> UserError:
    with pytest.raises(UserError) as caught:
        parse_config(small_config(**changes), "there/config.json")
    return caught.value


def test_fields_become_dimensions() -> None:
    assert parse_config(small_config(), "config.json") == SMALL
    assert SMALL.head_dim == 16


def test_given_n_inner_is_kept() -> None:
    assert parse_config(small_config(n_inner=96), "config.json").n_inner == 96


def test_absent_n_inner_is_four_times_n_embd() -> None:
    fields = small_config()
    del fields["n_inner"]
    assert parse_config(fields, "config.json").n_inner == 256


def test_each_field_of_both_configs_has_its_place() -> None:
    assert sorted([*HONOURED, *WITHOUT_EFFECT]) == sorted({*CODEGEN_CONFIG, *GPTJ_CONFIG})


def test_the_document_says_of_each_field_what_the_code_does() -> None:
    rows = [line.split("|") for line in DOCUMENT.read_text("utf-8").splitlines()]
    said = {row[1].strip(" `"): row[2].strip() for row in rows if row[0] == "" and len(row) == 5}
    done = dict.fromkeys(HONOURED, "honoured") | dict.fromkeys(WITHOUT_EFFECT, "without effect")
    assert {name: said.get(name) for name in done} == done
    assert {name: said.get(name) for name in OTHER_ATTENTION} == dict.fromkeys(
        OTHER_ATTENTION, "honoured"
    )
    assert {name: said.get(name) for name in ALIASES} == {
        alias: f"honoured as `{name}`" for alias, name in ALIASES.items()
    }


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_fields_without_effect_are_ignored(name: str) -> None:
    assert parse_config(small_config(**{name: -1}), "config.json") == SMALL
    fields = small_config(model_type="gptj", **{name: -1})
    assert parse_config(fields, "config.json") == SMALL_GPTJ


def test_fields_that_nobody_knows_are_ignored() -> None:
    fields = small_config(
        attention_dropout=0.3,
        torch_dtype=None,
        head_dim=7,
        rope_scaling={},
        is_causal=True,
        sliding_window=None,
    )
    assert parse_config(fields, "config.json") == SMALL


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 97),
        ("n_positions", 65),
        ("n_embd", 128),
        ("n_layer", 3),
        ("n_head", 8),
        ("rotary_dim", 6),
        ("n_inner", 33),
        ("activation_function", "tanh"),
        ("layer_norm_epsilon", 1e-3),
        ("eos_token_id", 5),
        ("tie_word_embeddings", True),
    ],
)
def test_honoured_field_reaches_the_config(name: str, value: object) -> None:
    for model_type in ("codegen", "gptj"):
        config = parse_config(small_config(model_type=model_type, **{name: value}), "config.json")
        assert getattr(config, name) == ((value,) if name == "eos_token_id" else value)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_alias_stands_for_its_field(alias: str, name: str) -> None:
    fields = small_config()
    value = fields.pop(name)
    assert parse_config(fields | {alias: value}, "config.json") == SMALL
    assert parse_config(small_config() | {alias: value}, "config.json") == SMALL
    error = refusal(**{alias: 4096})
    assert f"{name} is {value} and {alias} is 4096, need the same" in error.message


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_five_activations_are_known(name: str) -> None:
    config = parse_config(small_config(activation_function=name), "config.json")
    assert config.activation_function == name


@pytest.mark.parametrize(
    ("value", "ids"),
    [(None, ()), (2, (2,)), ([7, 2, 7], (7, 2)), ([], ()), ([95, 96, 50256, -1], (95,))],
)
def test_end_ids_are_those_below_vocab_size(value: object, ids: tuple[int, ...]) -> None:
    assert parse_config(small_config(eos_token_id=value), "config.json").eos_token_id == ids


def test_codegen2_has_8_shards_where_head_dim_is_stated_and_else_4() -> None:
    assert parse_config(small_config(**CODEGEN2, head_dim=8), "config.json").mp_num == 8
    assert parse_config(small_config(**CODEGEN2), "config.json").mp_num == 4
    assert parse_config(small_config(head_dim=16), "config.json").mp_num == 4


def test_codegen2_as_transformers_saves_it_again_is_known() -> None:
    auto_map = {
        key: f"Salesforce/codegen2-1B--{value}" for key, value in CODEGEN2["auto_map"].items()
    }
    fields = small_config(**CODEGEN2 | {"auto_map": auto_map}, head_dim=8)
    assert parse_config(fields, "config.json").mp_num == 8


def test_stated_number_of_shards_is_believed() -> None:
    assert parse_config(small_config(n_head=8, mp_num=8), "config.json").mp_num == 8
    fields = small_config(**CODEGEN2, head_dim=8, mp_num=4)
    assert parse_config(fields, "config.json").mp_num == 4


def test_published_codegen2_1b_config_is_accepted() -> None:
    """As it was published, but for fields that say nothing of the model."""
    published = {
        "activation_function": "gelu_new",
        "architectures": ["CodeGenForCausalLM"],
        "auto_map": CODEGEN2["auto_map"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "gradient_checkpointing": False,
        "head_dim": 128,
        "layer_norm_epsilon": 1e-05,
        "model_type": "codegen",
        "n_ctx": 2048,
        "n_embd": 2048,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 16,
        "n_positions": 2048,
        "rotary_dim": 64,
        "scale_attn_weights": True,
        "summary_type": "cls_index",
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "torch_dtype": "float32",
        "vocab_size": 51200,
    }
    config = parse_config(published, "config.json")
    assert (config.mp_num, config.head_dim, config.eos_token_id) == (8, 128, (2,))


def test_absent_fields_with_one_sensible_value_are_filled() -> None:
    fields = small_config()
    for name in ("layer_norm_epsilon", "tie_word_embeddings", "scale_attn_weights"):
        del fields[name]
    assert parse_config(fields, "config.json") == SMALL


def test_config_survives_its_own_fields() -> None:
    config = replace(
        SMALL,
        tie_word_embeddings=True,
        layer_norm_epsilon=1e-6,
        n_inner=100,
        n_head=8,
        activation_function="silu",
        mp_num=8,
        eos_token_id=(2, 95),
    )
    fields = json.loads(json.dumps(config_fields(config)))
    assert parse_config(fields, "packed file") == config


def test_layout_of_gptj_is_told_by_model_type() -> None:
    """As transformers tells it: GPTJConfig has no mp_num, and ignores one."""
    assert SMALL.model_type == "codegen"
    for fields in ({}, {"mp_num": 4}, {"mp_num": "8"}, {"head_dim": 16}):
        config = parse_config(small_config(model_type="gptj", **fields), "config.json")
        assert config == SMALL_GPTJ
        assert config.model_type == "gptj"


@pytest.mark.parametrize("n_head", [1, 2, 3, 6, 16])
def test_gptj_has_no_shards_that_need_whole_heads(n_head: int) -> None:
    fields = small_config(model_type="gptj", n_head=n_head, n_embd=96, rotary_dim=6)
    config = parse_config(fields, "config.json")
    assert (config.n_head, config.mp_num) == (n_head, 1)
    assert parse_config(json.loads(json.dumps(config_fields(config))), "packed file") == config


def test_published_gptj_6b_config_is_accepted() -> None:
    """As it was published, but for the settings of a summary head."""
    published = {
        "activation_function": "gelu_new",
        "architectures": ["GPTJForCausalLM"],
        "attn_pdrop": 0.0,
        "bos_token_id": 50256,
        "embd_pdrop": 0.0,
        "eos_token_id": 50256,
        "gradient_checkpointing": False,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gptj",
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "rotary": True,
        "rotary_dim": 64,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "use_cache": True,
        "vocab_size": 50400,
    }
    config = parse_config(published, "config.json")
    assert (config.head_dim, config.n_inner, config.eos_token_id) == (256, 16384, (50256,))


def test_gptj_with_code_of_its_own_is_refused() -> None:
    for auto_map in (CODEGEN2["auto_map"], {"AutoModelForCausalLM": "modeling_gptj.GPTJ"}):
        error = refusal(model_type="gptj", auto_map=auto_map)
        assert "brings model code of its own" in error.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 5}, "n_embd is 64, need a multiple of n_head 5"),
        ({"n_head": 3, "n_embd": 33}, "gives a head_dim of 11, need an even one"),
        ({"rotary_dim": None}, "has no rotary_dim, need a whole number from 1 to 65536"),
        ({"rotary_dim": 7}, "rotary_dim is 7, need an even number from 2 to the head_dim 16"),
        ({"activation_function": "swish"}, "activation_function is 'swish', need one of gelu_new"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, need True"),
        ({"is_causal": False}, "is_causal is False, need True"),
        ({"sliding_window": 128}, "sliding_window is 128, need null"),
        ({"quantization_config": {"bits": 4}}, "quantized already (quantization_config"),
    ],
)
def test_field_that_no_gptj_has_is_named(changes: dict[str, object], message: str) -> None:
    assert message in refusal(model_type="gptj", **changes).message


def test_packed_gptj_is_declared_as_codegen_where_its_heads_are_a_multiple_of_4() -> None:
    assert packed_config(SMALL_GPTJ) == SMALL
    six_heads = replace(SMALL_GPTJ, n_head=6, n_embd=96)
    assert packed_config(six_heads) == six_heads
    eight_shards = replace(SMALL, n_head=8, mp_num=8)
    assert packed_config(eight_shards) == eight_shards


def test_fields_of_files_packed_before_these_are_enough() -> None:
    fields = config_fields(SMALL)
    assert fields.pop("mp_num") == 4
    assert fields.pop("eos_token_id") == ()
    assert parse_config(fields, "packed file") == SMALL


def test_released_sizes_are_accepted() -> None:
    for n_layer, n_embd, n_head, rotary_dim in (
        (20, 1024, 16, 32),
        (32, 2560, 32, 64),
        (33, 4096, 16, 64),
        (34, 6144, 24, 64),
    ):
        sizes = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "rotary_dim": rotary_dim}
        released = {"vocab_size": 51200, "n_positions": 2048}
        assert parse_config(small_config(**sizes, **released), "x").n_inner == 4 * n_embd


def test_another_architecture_is_named() -> None:
    error = refusal(model_type="gpt2")
    need = "need model_type 'codegen' or 'gptj'"
    assert error.message == f"there/config.json has model_type 'gpt2', {need}"
    assert "config.json of a CodeGen or GPT-J checkpoint" in error.hint
    assert f"has no model_type, {need}" in refusal(model_type=None).message


def test_model_with_code_of_its_own_is_refused() -> None:
    for auto_map in (
        {"AutoConfig": "configuration_codegen.CodeGenConfig"},
        {"AutoModelForCausalLM": "modeling_mine.CodeGenForCausalLM"},
        CODEGEN2["auto_map"] | {"AutoTokenizer": ["tokenization_mine.Tokenizer", None]},
        "modeling_codegen.CodeGenForCausalLM",
        ["AutoModelForCausalLM"],
    ):
        error = refusal(auto_map=auto_map)
        assert "config.json brings model code of its own (auto_map " in error.message
        need = "need a model that transformers' CodeGenForCausalLM or GPTJForCausalLM runs"
        assert f"{need}, or CodeGen2" in error.message
        assert "codegen2-*" in error.hint


def test_weights_that_are_quantized_already_are_refused() -> None:
    error = refusal(quantization_config={"load_in_8bit": True})
    assert "quantized already (quantization_config {'load_in_8bit': True})" in error.message
    assert "Use the checkpoint from which they were made." in error.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"activation_function": "swish"},
            "activation_function is 'swish', need one of gelu_new, gelu, relu, silu, tanh",
        ),
        ({"activation_function": None}, "activation_function is None, need one of"),
        ({"activation_function": ["relu"]}, "activation_function is ['relu'], need one of"),
        (
            {"eos_token_id": "2"},
            "eos_token_id is '2', need a whole number, a list of them, or null",
        ),
        ({"eos_token_id": [2, True]}, "eos_token_id is [2, True], need a whole number, a list"),
        ({"eos_token_id": 2.0}, "eos_token_id is 2.0, need a whole number, a list"),
        ({"mp_num": 2}, "mp_num is 2, need 4 or 8"),
        ({"mp_num": "8"}, "mp_num is '8', need 4 or 8"),
        ({"mp_num": True}, "mp_num is True, need 4 or 8"),
        ({"mp_num": 8, "n_head": 4}, "n_head is 4, need a multiple of 8"),
        (CODEGEN2 | {"head_dim": 16, "n_head": 4}, "n_head is 4, need a multiple of 8"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, need True"),
        ({"is_causal": False}, "is_causal is False, need True"),
        ({"is_causal": None}, "is_causal is None, need true or false"),
        ({"sliding_window": 128}, "sliding_window is 128, need null"),
        ({"attention_chunk_size": 0}, "attention_chunk_size is 0, need null"),
        ({"layer_types": ["linear_attention"] * 2}, "layer_types is ['linear_attention', 'linear_"),
        ({"kv_sharing_modes": ["reuse"] * 2}, "kv_sharing_modes is ['reuse', 'reuse'], need null"),
        ({"scale_attn_weights": 1}, "scale_attn_weights is 1, need true or false"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', need true or false"),
        ({"rotary_dim": None}, "has no rotary_dim, need a whole number from 1 to 65536"),
        ({"n_layer": 0}, "n_layer is 0, need a whole number from 1 to 1024"),
        ({"n_layer": 2.0}, "n_layer is 2.0, need a whole number"),
        ({"n_layer": True}, "n_layer is True, need a whole number"),
        ({"n_layer": "2"}, "n_layer is '2', need a whole number"),
        ({"n_positions": -64}, "n_positions is -64, need a whole number"),
        ({"vocab_size": [96]}, "vocab_size is [96], need a whole number"),
        ({"n_embd": 1 << 31}, "n_embd is 2147483648, need a whole number from 1 to 65536"),
        ({"n_embd": 10**5000}, "n_embd is a whole number of 16610 bits, need"),
        ({"n_inner": 0}, "n_inner is 0, need a whole number"),
        ({"n_head": 6, "n_embd": 96}, "n_head is 6, need a multiple of 4"),
        ({"n_embd": 66}, "n_embd is 66, need a multiple of n_head 4"),
        ({"n_embd": 60}, "n_embd 60 / n_head 4 gives a head_dim of 15, need an even one"),
        ({"rotary_dim": 7}, "rotary_dim is 7, need an even number from 2 to the head_dim 16"),
        ({"rotary_dim": 18}, "rotary_dim is 18, need an even number from 2 to the head_dim 16"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0, need a number from 1e-12 to 1"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5', need a number"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan, need a number"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon is True, need a number"),
        ({"n_embd": 1 << 15, "n_inner": 64}, "3 x n_embd x n_embd is 3221225472, need at most"),
        ({"n_embd": 4096, "n_inner": 1 << 20}, "n_inner x n_embd is 4294967296, need at most"),
        (
            {"n_embd": 1024, "vocab_size": 1 << 22},
            "vocab_size x n_embd is 4294967296, need at most",
        ),
    ],
)
def test_field_that_no_codegen_has_is_named(changes: dict[str, object], message: str) -> None:
    error = refusal(**changes)
    assert error.message.startswith("there/config.json")
    assert message in error.message
    assert error.hint == "Use the unchanged config.json of a CodeGen or GPT-J checkpoint."


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "vocab_size", "n_positions"])
def test_absent_dimension_is_named(name: str) -> None:
    fields = small_config()
    del fields[name]
    with pytest.raises(UserError, match=re.escape(f"config.json has no {name}, need a whole")):
        parse_config(fields, "config.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"n_layer": ', "Expecting value"),
        (b"", "Expecting value"),
        (b"\xff{}", "can't decode byte 0xff"),
        (b"[1, 2]", "found [1, 2], need an object {...}"),
        (b'{"n_layer": NaN}', "NaN is not a JSON number"),
        (b'{"n_layer": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"n_layer": 1, "n_layer": 2}', "the key 'n_layer' is given twice"),
        (b'{"n_layer": ' + b"9" * 5000 + b"}", "limit (4300 digits)"),
        (b'{"a": ' * 100_000, "it is nested too deeply"),
    ],
)
def test_file_that_is_no_json_object_is_named(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert caught.value.message.startswith(f"{path} is not a valid JSON object: ")
    assert reason in caught.value.message
    assert "Download the file again" in caught.value.hint


def test_huge_config_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (1 << 21))
    with pytest.raises(UserError, match="is larger than the 1048576 bytes"):
        read_config(path)


def test_found_value_is_shown_short_and_escaped() -> None:
    message = refusal(model_type="\x1b[31m" + "x" * 10_000).message
    assert "\\x1b[31m" in message
    assert "\x1b" not in message
    assert len(message) < 300


def test_json_object_is_parsed_as_it_stands() -> None:
    assert parse_json_object(b'{"a": [1, 2.5, null, {"b": "c"}]}', "x") == {
        "a": [1, 2.5, None, {"b": "c"}]
    }
