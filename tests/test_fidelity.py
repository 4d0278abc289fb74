"""benchmarks/fidelity.py on a tiny checkpoint, against sums over whole arrays of logits."""

import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from real_tokenizer import END_OF_TEXT_ID, TOKENIZER, VOCAB_SIZE

from codegen_cli.machine.places import bundled_model
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of
from codegen_cli.text.tokenizer import Tokenizer
from quantize.packed.packed_file import read_packed_file

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fidelity  # noqa: E402
import validation  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_kernels")

TEXT = "def add(a, b):\n    return a + b  # Größe ✓\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    config = small_config(vocab_size=VOCAB_SIZE)
    directory = tmp_path_factory.mktemp("fidelity") / "checkpoint"
    return write_checkpoint(directory, config, random_tensors(config, seed=1))


@pytest.fixture
def checkpoint(source, tmp_path):
    return fidelity.Checkpoint(source, tmp_path)


@pytest.fixture
def sets():
    ids = np.array(TOKENIZER.encode(TEXT * 8), np.int32)
    return [("first", [ids[:64], ids[20:84]]), ("second", [ids[5:40]])]


def logits_of_file(path, ids):
    model = open_engine(path, n_threads=1)
    logits = logits_of(model, ids, model.new_cache()).astype(np.float64)
    model.close()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_scores_are_the_sums_over_all_positions(checkpoint, sets):
    found = {(name, label): score for name, label, score in fidelity.measure(checkpoint, sets, 2)}
    assert list(found) == [(name, label) for name, _ in sets for label in fidelity.LABELS]
    for label in ("int8", "int4", "  plain"):
        kl, same, surprise, n_positions, n_targets = 0.0, 0, 0.0, 0, 0
        for ids in sets[0][1]:
            p, q = (logits_of_file(checkpoint.packed(each), ids) for each in ("f16", label))
            kl += (np.exp(p) * (p - q)).sum()
            same += (p.argmax(-1) == q.argmax(-1)).sum()
            surprise -= q[np.arange(len(ids) - 1), ids[1:]].sum()
            n_positions, n_targets = n_positions + len(ids), n_targets + len(ids) - 1
        score = found["first", label]
        assert score.kl == pytest.approx(kl / n_positions, rel=1e-6, abs=1e-9)
        assert score.same == same / n_positions
        assert score.perplexity == pytest.approx(np.exp(surprise / n_targets))
    assert (found["first", "f16"].kl, found["first", "f16"].same) == (0, 1)
    kls = [found["first", label].kl for label in ("int8", "int4", "  plain")]
    assert 0 < kls[0] < kls[1] < kls[2]


def test_one_model_is_open_at_a_time(checkpoint, sets, monkeypatch):
    is_open = []

    def load(path, n_threads):
        assert not any(is_open)
        model = open_engine(path, n_threads=n_threads)
        close, number = model.close, len(is_open)
        is_open.append(True)

        def closed():
            is_open[number] = False
            close()

        monkeypatch.setattr(model, "close", closed, raising=False)
        return model

    monkeypatch.setattr(fidelity, "open_engine", load)
    assert len(list(fidelity.measure(checkpoint, sets, 1))) == len(is_open) == 12
    assert not any(is_open)


def test_progress_tells_what_is_done_and_what_is_left(checkpoint, sets, monkeypatch, capsys):
    monkeypatch.setattr(fidelity, "SECONDS_BETWEEN_NOTES", 0)
    capsys.readouterr()
    measured = fidelity.measure(checkpoint, sets, 1)
    next(measured)
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second = shown.err.splitlines()
    assert first.startswith("1 of 18 runs in ")
    assert second.startswith("2 of 18 runs in ")
    assert second.endswith(" s left: first, f16")
    next(measured)
    assert capsys.readouterr().err.startswith("packing int8\n3 of 18 runs in ")


def test_the_command_prints_rows_as_they_are_known_then_the_totals(source, tmp_path):
    ids = np.array(TOKENIZER.encode(TEXT * 20), np.uint16)
    for name in ("valid_one.npy", "two.npy"):
        np.save(tmp_path / name, ids)
        (tmp_path / f"{name}.xz").write_bytes(lzma.compress((tmp_path / name).read_bytes()))
    corpus = [str(tmp_path / name) for name in ("valid_one.npy.xz", "two.npy.xz")]
    options = ["--contexts", "2", "--threads", "1", "--corpus", *corpus]
    command = [sys.executable, str(BENCHMARKS / "fidelity.py"), str(source), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["set", "rounding", "KL", "same", "top-1", "perplexity"]
    rows = [line.split() for line in lines[:18]]
    assert [row[0] for row in rows] == ["one"] * 6 + ["two"] * 6 + ["all"] * 6
    one, every = rows[0], rows[12]
    assert one[1:4] == every[1:4] == ["f16", "0.00000", "1.000"]
    assert [line.partition(":")[0] for line in lines[18:]] == [
        "KL of int4 / of plain",
        "KL of int4 and lm_head too / of plain, lm_head too",
        "error of the weights / of plain",
    ]


def test_ids_of_codegens_tokenizer_become_those_of_the_models_own():
    own = Tokenizer.from_packed(read_packed_file(bundled_model()))
    ids = np.array([*TOKENIZER.encode(TEXT), END_OF_TEXT_ID, *TOKENIZER.encode("x = 1\n")])
    found = validation.encode_anew(ids, TOKENIZER, own)
    assert found.tolist() == [*own.encode(TEXT), own.end_of_text, *own.encode("x = 1\n")]
    assert validation.encode_anew(ids, TOKENIZER, TOKENIZER).tolist() == ids.tolist()


def test_the_shipped_contexts_are_whole_for_the_bundled_model():
    packed = read_packed_file(bundled_model())
    sets = dict(validation.shipped_sets(Tokenizer.from_packed(packed), 512))
    assert list(sets) == ["func", "general", "textbook"]
    for contexts in sets.values():
        assert len(contexts) == 8
        assert all(ids.min() >= 0 and ids.max() < packed.config.vocab_size for ids in contexts)
        assert all(len(ids) > 256 for ids in contexts)
