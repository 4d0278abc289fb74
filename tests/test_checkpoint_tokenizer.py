"""Whatever a checkpoint's files say of its tokenizer reaches the model that is packed from it.

The ids are those of transformers 5.23: CodeGenTokenizer.from_pretrained(directory).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, write_checkpoint
from conftest import Codegen
from hostile import TINY, TINY_TOKENIZER, refused
from real_tokenizer import TOKENIZER, TOKENIZER_JSON

import codegen_cli
from codegen_cli.decoding.summary import Summary
from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer
from codegen_cli.text.tokenizer_options import options_from
from quantize.checkpoint.tokenizer_files import read_tokenizer
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize

PUBLISHED = json.loads(TOKENIZER_JSON)
ADDED = {token["content"]: token["id"] for token in PUBLISHED["added_tokens"][1:]}
TEXT = "def f():\n    x<s>  <mask> <pad></s>"
START = [4299, 277, 33529, 198, 50284, 87]
END = [1279, 15636, 12240, 82, 29]
PLAIN = [*START, 27, 82, 29, 50286, 27, 27932, 29, *END]

# tokenizer_config.json, special_tokens_map.json, the ids of TEXT, and of unk, bos, eos and pad.
COMPANIONS = {
    "none": (None, None, PLAIN, (50256, 50256, 50256, None)),
    "prefix": (
        {"add_prefix_space": True},
        {},
        [825, *START[1:5], 2124, 27, 82, 29, 50286, 1279, 27932, 29, *END],
        (50256, 50256, 50256, None),
    ),
    "no bos": (
        {"add_bos_token": True, "bos_token": None},
        None,
        PLAIN,
        (50256, None, 50256, None),
    ),
    "map": (
        {"pad_token": "overruled"},
        {
            "bos_token": {"content": "<s>", "lstrip": True, "rstrip": False},
            "pad_token": "<pad>",
            "eos_token": "</s>",
        },
        [*START, 50295, 50286, 27, 27932, 29, 220, 50297, 50296],
        (50256, 50295, 50296, 50297),
    ),
    "roles": (
        {
            "unk_token": "!",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            "additional_special_tokens": ["<s>"],
            "eos_token": "</s>",
        },
        None,
        [*START, 50298, 50286, 50297, 220, 50296, 50295],
        (0, 50256, 50295, 50296),
    ),
    "extra": (
        {"extra_special_tokens": ["<mask>"], "additional_special_tokens": ["<s>"]},
        None,
        [*START, 27, 82, 29, 50286, 50295, *END],
        (50256, 50256, 50256, None),
    ),
}


def directory_of(
    directory: Path, older: bool, config: object = None, special: object = None
) -> Path:
    """The published tokenizer, in one file or in the older ones, with companions."""
    files: dict[str, object] = {"tokenizer_config": config, "special_tokens_map": special}
    if older:
        files |= {"vocab": PUBLISHED["model"]["vocab"], "added_tokens": ADDED}
        merges = "".join(f"{merge}\n" for merge in PUBLISHED["model"]["merges"])
        (directory / "merges.txt").write_bytes(merges.encode())
    else:
        (directory / "tokenizer.json").write_bytes(TOKENIZER_JSON)
    for name, content in files.items():
        if content is not None:
            (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def tokenizer_of(directory: Path) -> CodeGenTokenizer:
    """The tokenizer as a packed file would give it."""
    source = read_tokenizer(directory)
    settings = json.loads(json.dumps(source.settings))
    return CodeGenTokenizer.from_json(source.json, options=options_from(settings, "a test"))


@pytest.mark.parametrize("older", [False, True], ids=["tokenizer.json", "older files"])
@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_give_the_ids_of_transformers(tmp_path: Path, name: str, older: bool) -> None:
    config, special, ids, roles = COMPANIONS[name]
    tokenizer = tokenizer_of(directory_of(tmp_path, older, config, special))
    assert tokenizer.encode(TEXT, special_tokens=True) == ids
    found = (tokenizer.unk_id, tokenizer.bos_id, tokenizer.end_of_text, tokenizer.pad_id)
    assert found == roles
    assert tokenizer.end_ids([]) == {tokenizer.end_of_text}


@pytest.mark.parametrize(("bos_token", "bos_id"), [("<|endoftext|>", 50256), ("<s>", 50295)])
def test_add_bos_token_is_for_the_older_files_as_in_transformers(
    tmp_path: Path, bos_token: str, bos_id: int
) -> None:
    """Where there is a tokenizer.json, its template says what begins a text."""
    config = {"add_bos_token": True, "bos_token": bos_token}
    older = tokenizer_of(directory_of(tmp_path, True, config))
    assert (older.first_ids, older.bos_id) == ([bos_id], bos_id)
    assert older.encode("a") == [bos_id, 64]
    post_processor = json.loads(read_tokenizer(tmp_path).json)["post_processor"]
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER_JSON)
    assert tokenizer_of(tmp_path).encode("a") == [64]
    templated = PUBLISHED | {"post_processor": post_processor}
    (tmp_path / "tokenizer.json").write_text(json.dumps(templated), encoding="utf-8")
    assert tokenizer_of(tmp_path).encode("a") == [bos_id, 64]


@pytest.mark.parametrize("said", [None, False])
def test_a_prefix_space_is_the_configs_to_ask_for(tmp_path: Path, said: bool | None) -> None:
    fields = PUBLISHED | {"pre_tokenizer": PUBLISHED["pre_tokenizer"] | {"add_prefix_space": True}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    if said is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": said}))
    assert tokenizer_of(tmp_path).encode("def") == [4299]


def test_a_tokenizer_json_that_needs_nothing_added_stays_as_it_came(tmp_path: Path) -> None:
    config = {"add_prefix_space": False, "bos_token": "<|endoftext|>", "model_max_length": 2048}
    directory_of(tmp_path, False, config, {"eos_token": "<|endoftext|>"})
    (tmp_path / "added_tokens.json").write_text(json.dumps(ADDED), encoding="utf-8")
    source = read_tokenizer(tmp_path)
    assert (source.json, source.settings, source.largest_id) == (TOKENIZER_JSON, {}, 50294)


def test_tokens_that_only_the_companions_have_are_added(tmp_path: Path) -> None:
    directory_of(tmp_path, False)
    beside = {"<mask>": 50295, "other": 50257}  # 50257 is taken
    (tmp_path / "added_tokens.json").write_text(json.dumps(beside), encoding="utf-8")
    tokenizer = tokenizer_of(tmp_path)
    assert tokenizer.encode("<mask>other") == [50295, *TOKENIZER.encode("other")]
    assert read_tokenizer(tmp_path).largest_id == 50295


def test_however_deep_a_tokenizer_json_is_it_is_written_again_or_refused(tmp_path: Path) -> None:
    """Where reading just succeeds, writing may not."""
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    messages = []
    for depth in range(901, 1000, 9):
        deep = json.dumps(TINY_TOKENIZER)[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}"
        (tmp_path / "tokenizer.json").write_text(deep, encoding="utf-8")
        error = refused(lambda: read_tokenizer(tmp_path))
        messages.append(error.message if error else "read")
    assert {"read", messages[-1]} == set(messages)
    assert "nested too deeply" in messages[-1]


@pytest.mark.parametrize(
    ("settings", "need"),
    [
        ({"eos_token": 3}, "eos_token 3, need the text of a token or null"),
        ({"pad_token": ""}, "pad_token '', need the text of a token or null"),
        ({"return_token_type_ids": 1}, "return_token_type_ids 1, need true or false"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], need: str) -> None:
    with pytest.raises(UserError, match=f"^a file: its tokenizer_settings have {need}"):
        options_from(settings, "a file")


def test_settings_of_later_versions_are_passed_over() -> None:
    assert options_from({"of_later": [1], "pad_token": None}, "a file") == options_from({}, "")


TENSORS = random_tensors(TINY, seed=3)


def pack(tmp_path: Path, config: object, tokenizer: object = TINY_TOKENIZER) -> Path:
    """Pack a checkpoint that has a small tokenizer and this tokenizer_config.json."""
    source = write_checkpoint(tmp_path / "source", TINY, TENSORS)
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (source / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    quantize(source, tmp_path / "packed", "int8")
    return tmp_path / "packed"


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "ab", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"ab": {"id": "ab", "ids": [256], "tokens": ["ab"]}},
}


def test_a_packed_file_keeps_the_tokens_and_their_parts(tmp_path: Path) -> None:
    config = {"eos_token": "b", "pad_token": "<pad>", "return_token_type_ids": True}
    packed = read_packed_file(pack(tmp_path, config))
    assert packed.tokenizer_settings == config
    tokenizer = CodeGenTokenizer.from_packed(packed)
    assert tokenizer.end_of_text == ord("b")
    assert tokenizer.encode("a<pad>", special_tokens=True) == [97, 258]
    arrays = tokenizer.inputs(["a", "bc"])
    assert arrays["input_ids"].tolist() == [[97, 258], [98, 99]]
    assert arrays["token_type_ids"].tolist() == [[0, 0], [0, 0]]


def test_a_packed_file_of_a_usual_tokenizer_says_nothing_of_it(tmp_path: Path) -> None:
    packed = pack(tmp_path, {"eos_token": "<|endoftext|>", "pad_token": None})
    assert b"tokenizer_settings" not in packed.read_bytes()


@pytest.mark.usefixtures("compiled_kernels")
def test_a_completion_begins_with_bos_and_a_prefix_space(tmp_path: Path) -> None:
    def prompt_tokens(config: object, tokenizer: object) -> int:
        with codegen_cli.load(pack(tmp_path, config, tokenizer)) as model:
            *_, summary = model.generate("ab c", max_tokens=1)
            assert isinstance(summary, Summary)
            return summary.prompt_tokens

    assert prompt_tokens({}, TINY_TOKENIZER) == 3
    assert prompt_tokens({"add_prefix_space": True}, TINY_TOKENIZER) == 4
    assert prompt_tokens({}, TINY_TOKENIZER | {"post_processor": TEMPLATE}) == 4


@pytest.mark.usefixtures("compiled_kernels")
def test_a_completion_ends_at_the_configs_eos_token(tmp_path: Path) -> None:
    packed = pack(tmp_path, {})
    with codegen_cli.load(packed) as model:
        text = model.complete("ab", max_tokens=8, temperature=0, until="none")
        first = model.tokenizer.encode(text)[0]
    eos = next(token for token, i in TINY_TOKENIZER["model"]["vocab"].items() if i == first)
    with codegen_cli.load(pack(tmp_path, {"eos_token": eos})) as model:
        assert model.complete("ab", max_tokens=8, temperature=0, until="none") == ""


@pytest.mark.usefixtures("compiled_kernels")
def test_a_score_reads_bos_in_the_place_of_the_end_mark(tmp_path: Path) -> None:
    with codegen_cli.load(pack(tmp_path, {})) as model:
        ids = model.tokenizer.encode("ba c")
        logits = model.logits([256, *ids]).astype(float)
    with codegen_cli.load(
        pack(tmp_path, {}, TINY_TOKENIZER | {"post_processor": TEMPLATE})
    ) as model:
        score = model.score("ba c")
    assert score.ids.tolist() == ids
    assert (score.n_scored, score.n_bytes) == (4, 4)
    for row, token_id, found in zip(logits, ids, score.log_likelihoods, strict=False):
        shifted = row - row.max()
        assert found == pytest.approx(shifted[token_id] - np.log(np.exp(shifted).sum()), abs=1e-6)


def test_a_tokenizer_of_another_model_is_packed_with_a_warning(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", TINY, TENSORS)
    (source / "tokenizer.json").write_bytes(TOKENIZER_JSON)
    summary = quantize(source, tmp_path / "packed", "int8")
    assert summary.warnings == (
        "the tokenizer has ids up to 50294, the model's vocab_size is 272: they do not belong "
        "together, so the packed model takes ids but no text",
    )
    (source / "tokenizer.json").write_text(json.dumps(TINY_TOKENIZER), encoding="utf-8")
    assert quantize(source, tmp_path / "packed", "int8").warnings == ()


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(("options", "n_tokens"), [((), 14), (("--special-tokens",), 2)])
def test_end_of_text_in_a_file_is_text_unless_asked_for(
    tmp_path: Path, codegen: Codegen, options: tuple[str, ...], n_tokens: int
) -> None:
    packed = str(pack(tmp_path, {}))
    (tmp_path / "text").write_text("<|endoftext|>a")
    files = ("-m", packed, "-q", "--json", *options, str(tmp_path / "text"))
    scored = codegen("score", *files)
    assert json.loads(scored.stdout)["total"]["tokens"] == n_tokens, scored.stderr
    embedded = codegen("embed", *files)
    ids = [257, 97] if options else [*b"<|endoftext|>a"]
    with codegen_cli.load(packed) as model:
        states = model.hidden_states(ids)
    vector = np.float32(json.loads(embedded.stdout)["embedding"])
    np.testing.assert_allclose(vector, states.mean(axis=0), rtol=1e-5, atol=1e-6)
