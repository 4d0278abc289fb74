"""A packed file made to deceive is refused, or harmless: the kernels check no bounds."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Codegen
from hostile import (
    DELETED,
    NASTY,
    examples,
    open_header,
    packed_header,
    places,
    read_packed,
    refused,
    replaced,
    with_header,
    write_tiny_checkpoint,
    write_tiny_packed,
)
from hypothesis import given
from hypothesis import strategies as st

from codegen_cli.text.tokenizer import Tokenizer
from quantize.files.errors import UserError
from quantize.packed import packed_file
from quantize.packed.packed_file import read_packed_file
from quantize.packed.packed_header import (
    HASH_START,
    N_DIGITS,
    PackedText,
    header_hash,
    packed_text,
    read_packed_header,
)

FORMATS = ("int8", "int4", "f16")


def read_packed_text(path: Path) -> PackedText:
    return packed_text(read_packed_header(path))


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("packed")
    return {each: write_tiny_packed(directory / each, each).read_bytes() for each in FORMATS}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "packed.safetensors"


@pytest.fixture(scope="module")
def complete(compiled_kernels: None) -> Callable[..., str]:
    """Complete a prompt with a packed file, in this process."""
    from hostile_run import complete

    return complete


def forged(content: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """The content with an edited header and the hash that then fits."""
    header = open_header(content)
    edit(header)
    return with_header(content, header)


# --- bits that flip -------------------------------------------------------------------------------


def test_every_bit_of_the_header_is_guarded(contents: dict[str, bytes], scratch: Path) -> None:
    content = contents["int8"]
    header = packed_header(content)
    stated = json.loads(header)["__metadata__"]["header_sha256"]
    assert header_hash(header) == stated
    for place in range(8 + len(header)):
        # The length of the header by all its bits, the rest by one: the hash tells them all alike.
        for bit in range(8) if place < 8 else (place % 8,):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            if place < 8 or place % 5 == 0:
                scratch.write_bytes(flipped)
                assert refused(lambda: read_packed_file(scratch)), (place, bit)
                assert refused(lambda: read_packed_text(scratch)), (place, bit)
            else:
                changed = packed_header(bytes(flipped))
                digits = changed[HASH_START:][:N_DIGITS]
                assert header_hash(changed).encode() != digits, (place, bit)


def test_every_flipped_byte_of_a_payload_is_told_by_verify(
    contents: dict[str, bytes], scratch: Path
) -> None:
    content = contents["int4"]
    start = 8 + len(packed_header(content))
    scratch.write_bytes(content)
    assert packed_file.verify(scratch) == []
    for place in range(start, len(content), 29):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        scratch.write_bytes(flipped)
        assert len(packed_file.verify(scratch)) == 1, place


@examples(200)
@given(
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=5),
    kept=st.integers(0) | st.none(),
)
def test_a_packed_file_of_any_bytes_is_read_or_refused(
    contents: dict[str, bytes], scratch: Path, changes: list[tuple[int, int]], kept: int | None
) -> None:
    content = bytearray(contents["int8"])
    for place, value in changes:
        content[place % len(content)] = value
    scratch.write_bytes(content if kept is None else content[: kept % len(content)])
    refused(lambda: read_packed(scratch))


# --- headers whose hash is true -------------------------------------------------------------------

EDITS = st.lists(
    st.tuples(st.integers(0), st.sampled_from(NASTY) | st.just(DELETED)), min_size=1, max_size=3
)


@examples(400)
@given(format=st.sampled_from(FORMATS), edits=EDITS)
def test_a_forged_header_is_refused_or_harmless(
    contents: dict[str, bytes],
    scratch: Path,
    complete: Callable[..., str],
    format: str,
    edits: list[tuple[int, object]],
) -> None:
    header: object = open_header(contents[format])
    for number, new in edits:
        if found := places(header)[1:]:
            header = replaced(header, found[number % len(found)], new)
    assert isinstance(header, dict)
    scratch.write_bytes(with_header(contents[format], header))
    if not refused(lambda: read_packed(scratch)):
        refused(lambda: complete(scratch))


LIES = {
    "a vocabulary 16 rows larger": {"vocab_size": 288},
    "a vocabulary one row larger": {"vocab_size": 273},
    "a vocabulary of millions": {"vocab_size": 1 << 22},
    "a smaller vocabulary": {"vocab_size": 271},
    "more layers": {"n_layer": 2},
    "a thousand layers": {"n_layer": 1024},
    "a wider stream": {"n_embd": 16},
    "a wider mlp": {"n_inner": 64},
    "a narrower mlp": {"n_inner": 31},
    "fewer heads": {"n_head": 1},
    "no heads": {"n_head": 0},
    "a rotary dimension beyond the head": {"rotary_dim": 4},
    "tied": {"tie_word_embeddings": True},
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_config_that_its_payloads_do_not_fit_is_refused(
    contents: dict[str, bytes], scratch: Path, format: str, lie: str
) -> None:
    def edit(header: dict[str, Any]) -> None:
        header["__metadata__"]["config"].update(LIES[lie])

    scratch.write_bytes(forged(contents[format], edit))
    assert refused(lambda: read_packed_file(scratch))


HARMLESS = {
    "more positions": {"n_positions": 1 << 14},
    "one position": {"n_positions": 1},
    "fewer and longer heads": {"n_head": 4, "rotary_dim": 2},
    "another epsilon": {"layer_norm_epsilon": 1e-12},
    "another activation": {"activation_function": "relu"},
    "an end of text that no token is": {"eos_token_id": 1 << 40},
}


@pytest.mark.parametrize("lie", HARMLESS)
def test_a_config_that_its_payloads_fit_computes_something(
    contents: dict[str, bytes], scratch: Path, complete: Callable[..., str], lie: str
) -> None:
    def edit(header: dict[str, Any]) -> None:
        header["__metadata__"]["config"].update(HARMLESS[lie])

    scratch.write_bytes(forged(contents["int8"], edit))
    refused(lambda: complete(scratch))


def reformatted(content: bytes, name: str, format: str, payload: bytes) -> bytes:
    """A packed file in which one tensor has another format and a payload of that format's size."""
    header = open_header(content)
    at = 8 + len(packed_header(content))
    parts, end = [], 0
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        part = payload if key == name else content[at + start : at + stop]
        entry.update(shape=[len(part)], data_offsets=[end, end + len(part)])
        parts.append(part)
        end += len(part)
    declared = header["__metadata__"]["tensors"][name]
    declared.update(format=format, sha256=hashlib.sha256(payload).hexdigest())
    whole = with_header(content, header)
    return whole[: 8 + len(packed_header(whole))] + b"".join(parts)


@pytest.mark.usefixtures("compiled_kernels")
def test_an_embedding_in_int4_is_refused(contents: dict[str, bytes], scratch: Path) -> None:
    """Rows are looked up in bytes that an int4 payload does not have."""
    payload = bytes(272 * 32 // 2 + 272 * 2 + 32)
    scratch.write_bytes(reformatted(contents["f16"], "wte.weight", "int4", payload))
    from hostile_run import complete

    error = refused(lambda: complete(scratch))
    assert error
    assert error.message.endswith("wte.weight is int4, need int8 or f16")
    assert "quantize the checkpoint again" in error.hint


@pytest.mark.parametrize("format", FORMATS)
def test_any_matrix_may_have_any_format(
    contents: dict[str, bytes], scratch: Path, complete: Callable[..., str], format: str
) -> None:
    sizes = {"int8": 32 * 32 + 32 * 2, "int4": 32 * 32 // 2 + 32 * 2, "f16": 32 * 32 * 2}
    payload = np.random.RandomState(1).randint(0, 256, sizes[format]).astype(np.uint8).tobytes()
    for whole in ("int8", "f16"):
        content = reformatted(contents[whole], "h.0.mlp.fc_in.weight", format, payload)
        scratch.write_bytes(content)
        refused(lambda: complete(scratch))
        read_packed_file(scratch)


# --- payloads of any bytes ------------------------------------------------------------------------

FILLS = {
    "zeros": b"\0",
    "code -128": b"\0\x3c",
    "ones": b"\xff",
    "NaN": b"\x00\x7e",
    "infinity": b"\x00\x7c",
    "minus infinity": b"\x00\xfc",
    "NaN as float32": b"\x00\x00\xc0\x7f",
    "large": b"\xff\x7b",
    "tiny": b"\x01\x00",
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_payload_of_any_value_gives_text_or_an_error(
    contents: dict[str, bytes],
    scratch: Path,
    complete: Callable[..., str],
    format: str,
    fill: str,
) -> None:
    content = contents[format]
    entry = json.loads(packed_header(content))["wte.weight"]
    start = 8 + len(packed_header(content)) + entry["data_offsets"][0]
    scratch.write_bytes(content[:start] + (FILLS[fill] * len(content))[: len(content) - start])
    refused(lambda: complete(scratch))


def test_weights_that_are_no_numbers_are_an_error_with_a_way_out(
    contents: dict[str, bytes], scratch: Path, complete: Callable[..., str]
) -> None:
    content = contents["f16"]
    entry = json.loads(packed_header(content))["lm_head.bias"]
    start = 8 + len(packed_header(content)) + entry["data_offsets"][0]
    scratch.write_bytes(content[:start] + b"\x00\x00\xc0\x7f" * ((len(content) - start) // 4))
    error = refused(lambda: complete(scratch))
    assert error
    assert "the model computes no probabilities: logits are not finite" in error.message
    assert "codegen models verify" in error.hint


def with_tokenizer(content: bytes, tokenizer: dict[str, object]) -> bytes:
    text = json.dumps(tokenizer).encode()
    padded = text + bytes(-len(text) % 64)
    header = open_header(reformatted(content, "tokenizer.json", "json", padded))
    header["__metadata__"]["tensors"]["tokenizer.json"]["shape"] = [len(text)]
    return with_header(reformatted(content, "tokenizer.json", "json", padded), header)


def test_ids_that_the_model_lacks_are_refused(
    contents: dict[str, bytes], scratch: Path, complete: Callable[..., str]
) -> None:
    from hostile import TINY_TOKENIZER

    tokenizer = replaced(TINY_TOKENIZER, ("model", "vocab", "ab"), 1000)
    assert isinstance(tokenizer, dict)
    scratch.write_bytes(with_tokenizer(contents["int8"], tokenizer))
    error = refused(lambda: complete(scratch))
    assert error
    assert "1000, need ids below vocab_size 272" in error.message
    assert "does not belong to this model" in error.hint


def test_a_vocabulary_of_one_token_is_sampled(
    contents: dict[str, bytes], scratch: Path, complete: Callable[..., str]
) -> None:
    from hostile import TINY_TOKENIZER

    model = TINY_TOKENIZER["model"] | {"vocab": {"a": 7}, "merges": []}
    tokenizer = TINY_TOKENIZER | {"added_tokens": [], "model": model}
    scratch.write_bytes(with_tokenizer(contents["int8"], tokenizer))
    assert complete(scratch, "aaa") == "aaaaa"


def test_a_vocabulary_of_no_tokens_is_refused(
    contents: dict[str, bytes], scratch: Path, complete: Callable[..., str]
) -> None:
    from hostile import TINY_TOKENIZER

    model = TINY_TOKENIZER["model"] | {"vocab": {}, "merges": []}
    tokenizer = TINY_TOKENIZER | {"added_tokens": [], "model": model}
    scratch.write_bytes(with_tokenizer(contents["int8"], tokenizer))
    assert refused(lambda: complete(scratch))


@pytest.mark.parametrize("name", ["unk_token", "bos_token", "eos_token", "pad_token"])
@pytest.mark.parametrize("token", ["\ud800", "a\udfff", "q" * 5000, "", 7, ["ab"], {}])
def test_a_special_token_that_is_no_text_is_refused(
    contents: dict[str, bytes], scratch: Path, name: str, token: object
) -> None:
    """The tokenizers library fails at some, and takes 90 bytes for each byte of others."""

    def edit(header: dict[str, Any]) -> None:
        header["__metadata__"]["tokenizer_settings"] = {name: token}

    scratch.write_bytes(forged(contents["int8"], edit))
    error = refused(lambda: Tokenizer.from_packed(read_packed_file(scratch)))
    assert error
    assert f"its tokenizer_settings have {name} " in error.message


TEXT_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no metadata": lambda header: header.pop("__metadata__"),
    "no config": lambda header: header["__metadata__"].pop("config"),
    "a config that is none": lambda header: header["__metadata__"]["config"].pop("n_head"),
    "no tensors": lambda header: header["__metadata__"].pop("tensors"),
    "no tokenizer": lambda header: header["__metadata__"]["tensors"].pop("tokenizer.json"),
    "a tokenizer of two sizes": lambda header: _declared(header).update(shape=[8, 8]),
    "a tokenizer of half a byte": lambda header: _declared(header).update(shape=[0.5]),
    "a tokenizer of less than nothing": lambda header: _declared(header).update(shape=[-8]),
    "a tokenizer larger than the file": lambda header: _declared(header).update(shape=[1 << 40]),
    "a tokenizer in int8": lambda header: _declared(header).update(format="int8"),
    "a tokenizer without a hash": lambda header: _declared(header).pop("sha256"),
    "settings that are no object": lambda header: header["__metadata__"].update(
        tokenizer_settings=[]
    ),
}


def _declared(header: dict[str, Any]) -> dict[str, Any]:
    return header["__metadata__"]["tensors"]["tokenizer.json"]


@pytest.mark.parametrize("lie", TEXT_LIES)
def test_what_it_says_of_text_is_judged_before_any_tensor(
    contents: dict[str, bytes], scratch: Path, lie: str
) -> None:
    scratch.write_bytes(contents["int8"])
    assert read_packed_text(scratch).tokenizer_json == read_packed_file(scratch).tokenizer_json
    scratch.write_bytes(forged(contents["int8"], TEXT_LIES[lie]))
    for read in (read_packed_text, read_packed_file):
        error = refused(lambda read=read: read(scratch))
        assert error, read
        assert str(scratch) in error.message


def test_a_header_of_gigabytes_is_refused_unread(contents: dict[str, bytes], scratch: Path) -> None:
    scratch.write_bytes((1 << 33).to_bytes(8, "little") + contents["int8"][8:])
    os.truncate(scratch, 1 << 34)  # a hole takes no room
    for read in (read_packed_text, read_packed_file):
        error = refused(lambda read=read: read(scratch))
        assert error
        assert "bytes of the header: found 8589934592, need at most 100000000" in error.message


def test_texts_of_the_header_are_quoted(contents: dict[str, bytes], scratch: Path) -> None:
    def edit(header: dict[str, Any]) -> None:
        header["__metadata__"]["weight_format"] = "\x1b[2J\nhint: run this"

    scratch.write_bytes(forged(contents["int8"], edit))
    error = refused(lambda: read_packed_file(scratch))
    assert error
    assert r"weight_format: found '\x1b[2J\nhint: run this', need" in error.message
    version = contents["int8"].replace(b'_version":"1"', b'_version":"\x1b[2J"', 1)
    scratch.write_bytes(version)
    error = refused(lambda: read_packed_file(scratch))
    assert error
    assert r"found '\x1b[2J', need 1" in error.message


def test_a_terminal_is_never_told_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Even where a message quotes a file as it is, and where a path does."""
    from codegen_cli.terminal import console

    console.error("in \x1b]0;title\x07 and \u202e", "two\nlines")
    assert capsys.readouterr().err == "error: in \\x1b]0;title\\x07 and \\u202e\nhint: two\nlines\n"


# --- what nothing here prevents -------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="how a shrunken mapping fails is the system's")
def test_a_file_that_shrinks_while_it_is_mapped_ends_the_process(tmp_path: Path) -> None:
    """docs/security.md says so: a mapped page without a file behind it is SIGBUS."""
    path = write_tiny_packed(tmp_path / "packed")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from quantize.packed.packed_file import read_packed_file\n"
        "path = Path(sys.argv[1])\n"
        "packed = read_packed_file(path)\n"
        "os.truncate(path, 64)\n"
        "print(packed.tensors['lm_head.bias'].payload.sum())\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert result.returncode == -signal.SIGBUS


def test_a_replaced_file_leaves_a_running_model_alone(tmp_path: Path) -> None:
    """Our own writer renames a finished file into place; so do downloads."""
    path = write_tiny_packed(tmp_path / "packed")
    bias = read_packed_file(path).tensors["lm_head.bias"].payload
    before = bias.tobytes()
    write_tiny_packed(tmp_path / "other", "f16")
    (tmp_path / "other").replace(path)
    assert bias.tobytes() == before


def test_a_file_longer_than_its_mapping_cannot_be_had(tmp_path: Path) -> None:
    """A sparse file of a petabyte takes no room on a disk, and more addresses than there are."""
    path = tmp_path / "m"
    path.write_bytes(b"")
    try:
        os.truncate(path, 1 << 43)
    except OSError:
        pytest.skip("this file system holds no such file")
    assert isinstance(refused(lambda: read_packed_file(path)), UserError)


# --- through the command --------------------------------------------------------------------------


def test_the_command_says_what_is_wrong_with_a_model_that_computes_nothing(
    codegen: Codegen, compiled_kernels: None, contents: dict[str, bytes], tmp_path: Path
) -> None:
    content = contents["int8"]
    entry = json.loads(packed_header(content))["lm_head.bias"]
    start = 8 + len(packed_header(content)) + entry["data_offsets"][0]
    path = tmp_path / "packed.safetensors"
    path.write_bytes(content[:start] + b"\x00\x00\xc0\x7f" * ((len(content) - start) // 4))
    result = codegen("complete", "-q", "-m", str(path), "ab")
    assert result.returncode == 1
    assert result.stdout == b""
    error, hint = result.stderr.decode().splitlines()
    assert error.startswith("error: the model computes no probabilities")
    assert hint.startswith("hint: ")


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_to_nothing_beside_the_weights_is_ignored(
    codegen: Codegen, compiled_kernels: None, tmp_path: Path
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    (checkpoint / ".#lock").symlink_to("user@host.1234")
    result = codegen("complete", "-q", "-n", "2", "-m", str(checkpoint), "ab")
    assert result.returncode == 0, result.stderr
