"""A tokenizer -> vocab.json, merges.txt and added_tokens.json, from which the same one is built."""

import json
from pathlib import Path

import pytest
from real_tokenizer import TOKENIZER_JSON

from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer
from codegen_cli.text.tokenizer_options import TokenizerOptions
from quantize.checkpoint.tokenizer_files import read_tokenizer
from quantize.files.errors import UserError

TOKENIZER = CodeGenTokenizer.from_json(TOKENIZER_JSON)
NAMES = ["vocab.json", "merges.txt", "added_tokens.json"]


def test_a_saved_vocabulary_builds_the_tokenizer_it_came_from(tmp_path):
    paths = TOKENIZER.save_vocabulary(tmp_path / "new")
    assert paths == [tmp_path / "new" / name for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(NAMES)
    assert read_tokenizer(tmp_path / "new").json == TOKENIZER_JSON


def test_the_files_have_what_their_names_say(tmp_path):
    TOKENIZER.save_vocabulary(str(tmp_path))
    model = json.loads(TOKENIZER_JSON)["model"]
    assert json.loads((tmp_path / "vocab.json").read_bytes()) == model["vocab"]
    header, *merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert header == "#version: 0.2"
    assert merges == [*model["merges"], ""]
    added = json.loads((tmp_path / "added_tokens.json").read_bytes())
    assert len(added) == 38
    assert (added[" " * 31], added["\t\t"]) == (50257, 50294)


def test_a_prefix_begins_the_names(tmp_path):
    TOKENIZER.save_vocabulary(tmp_path, "mono")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"mono-{n}" for n in NAMES)


def test_tokens_of_the_options_are_saved_with_their_ids(tmp_path):
    tokenizer = CodeGenTokenizer.from_json(
        TOKENIZER_JSON, options=TokenizerOptions(pad_token="<pad>")
    )
    tokenizer.save_vocabulary(tmp_path)
    assert CodeGenTokenizer.from_json(read_tokenizer(tmp_path).json).token_id("<pad>") == 50295


def test_files_are_replaced_whole_and_only_once_all_are_written(tmp_path, monkeypatch):
    (tmp_path / "vocab.json").write_text("old")
    (tmp_path / "merges.txt").write_text("old")
    n_synced = []

    def fail_at_the_third(descriptor):
        n_synced.append(descriptor)
        if len(n_synced) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail_at_the_third)
    with pytest.raises(UserError) as raised:
        TOKENIZER.save_vocabulary(tmp_path)
    assert raised.value.message == (
        f"cannot write the vocabulary to {tmp_path}: No space left on device"
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "vocab.json": "old",
        "merges.txt": "old",
    }


def test_a_directory_that_is_a_file_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=f"cannot write the vocabulary to {file}: ") as raised:
        TOKENIZER.save_vocabulary(Path(file))
    assert raised.value.hint == "Choose another directory."
