"""training/bundle_model.py on a small checkpoint: every file that states the model, or none."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.machine.places import bundled_model
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "training"))

import bundle_model  # noqa: E402
import bundled_figures  # noqa: E402
import replace_files  # noqa: E402

NANO = "codegen_cli/data/nano"
FILES = (
    *(f"{NANO}/{name}" for name in ("nano.int8.safetensors", "MODEL_CARD.md", "NOTICES.md")),
    *(f"{NANO}/sources.csv", "tests/data/bundled.npz"),
    *("models.toml", "README.md"),
    *(f"docs/{name}.md" for name in ("completing", "models", "quantization")),
)
SOURCES = "repository,licence,commit,files,bytes\nsome/where,MIT,abc123,3,4\nno/thing,MIT,def,0,0\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights, with the tokenizer that the bundled model has now."""
    packed = read_packed_file(bundled_model())
    config = small_config(vocab_size=packed.config.vocab_size)
    directory = tmp_path_factory.mktemp("training") / "small"
    write_checkpoint(directory, config, random_tensors(config, seed=1))
    (directory / "tokenizer.json").write_bytes(packed.tokenizer_json)
    (directory / "sources.csv").write_text(SOURCES)
    return directory


@pytest.fixture
def tree(tmp_path):
    """A copy of the files that are replaced."""
    for name in FILES:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "tree" / name)
    return tmp_path / "tree"


def contents(tree):
    return {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_every_file_follows_the_checkpoint(checkpoint, tree):
    before = contents(tree)
    bundle_model.bundle(checkpoint, tree)
    after = contents(tree)
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in after)
    assert {path.name for path in tree.iterdir()} == {name.partition("/")[0] for name in FILES}
    packed = read_packed_file(tree / NANO / "nano.int8.safetensors")
    assert (packed.name, packed.format, packed.config.n_embd) == ("nano", "int8", 64)
    with np.load(tree / "tests/data/bundled.npz") as goldens:
        shapes = {name: goldens[name].shape for name in goldens.files}
    assert shapes == {"contexts": (4, 64), "ids": (4, 64, 256), "logits": (4, 64, 256)}
    assert "\nn_positions = 64\n" in (tree / "models.toml").read_text()
    assert "(2048; the bundled one 64)" in (tree / "docs/completing.md").read_text("utf-8")
    card = (tree / NANO / "MODEL_CARD.md").read_text("utf-8")
    assert (
        f"| vocabulary, context | vocab_size {packed.config.vocab_size}, n_positions 64 |" in card
    )
    notices = (tree / NANO / "NOTICES.md").read_text("utf-8")
    assert re.findall(r"^- (.+)$", notices, re.M) == ["some/where (abc123)"]
    again = contents(tree)
    bundle_model.bundle(checkpoint, tree)
    assert contents(tree) == again


def test_without_sources_the_notices_stay(checkpoint, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_model, "measured_figures", lambda checkpoint, sets: {})
    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "sources.csv").unlink()
    bundle_model.bundle(bare, tree)
    for name in ("sources.csv", "NOTICES.md"):
        assert (tree / NANO / name).read_bytes() == (ROOT / NANO / name).read_bytes()


def break_the_weights(checkpoint, tree):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def break_the_sources(checkpoint, tree):
    (checkpoint / "sources.csv").write_text("repository,licence\nsome/where,MIT\n")


def take_a_place_away(checkpoint, tree):
    page = tree / "docs/completing.md"
    text = page.read_text("utf-8").replace("the bundled one", "the other one")
    page.write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (break_the_weights, UserError),
        (break_the_sources, KeyError),
        (take_a_place_away, ValueError),
    ],
)
def test_a_failure_leaves_the_tree_as_it_was(checkpoint, tree, tmp_path, monkeypatch, spoil, error):
    monkeypatch.setattr(bundle_model, "measured_figures", lambda checkpoint, sets: {})
    spoilt = shutil.copytree(checkpoint, tmp_path / "spoilt")
    spoil(spoilt, tree)
    before = contents(tree)
    with pytest.raises(error):
        bundle_model.bundle(spoilt, tree)
    assert contents(tree) == before
    assert not list(tree.glob(".new-*"))


@pytest.mark.parametrize("n_moved", range(3))
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_files_that_were_moved_are_put_back(tmp_path, monkeypatch, n_moved, error):
    for name in ("a", "b/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)
    move, moved = Path.replace, []

    def replace(source, target):
        if "staged" in source.parts:
            if len(moved) == n_moved:
                raise error
            moved.append(target)
        return move(source, target)

    def replace_all():
        with replace_files.replacing_files(tmp_path) as staged:
            (staged / "b").mkdir()
            for name in ("a", "b/c", "b/new"):
                (staged / name).write_text("new")

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(error):
        replace_all()
    assert len(moved) == n_moved
    assert contents(tmp_path) == before


def test_files_are_replaced_together(tmp_path):
    (tmp_path / "a").write_text("old")
    with replace_files.replacing_files(tmp_path) as staged:
        (staged / "a").write_text("new")
        (staged / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


# --- what is said of the model that we ship -------------------------------------------------------


def test_every_text_states_the_figures_of_the_file():
    figures = bundled_figures.figures_of_file(read_packed_file(bundled_model()))
    texts = bundled_figures.restate(ROOT, figures)
    assert set(texts) == {
        "models.toml",
        "docs/completing.md",
        "docs/quantization.md",
        f"{NANO}/MODEL_CARD.md",
    }
    for name, text in texts.items():
        assert text == (ROOT / name).read_text("utf-8"), name


def test_every_place_of_a_figure_is_found():
    figures = {figure: "?" for *_, figure in bundled_figures.PLACES}
    texts = bundled_figures.restate(ROOT, figures)
    assert sum(text.count("?") for text in texts.values()) >= len(bundled_figures.PLACES)


def test_bits_per_weight_are_those_of_the_packed_files():
    from codegen_cli.hub.entries import entries

    sizes = {entry.name.partition("-")[0]: entry.size for entry in entries() if entry.repository}
    bits = {
        name: f"{8 * size.packed_bytes['int4'] / size.parameters:.2f}"
        for name, size in sizes.items()
    }
    docs = (ROOT / "docs/quantization.md").read_text("utf-8")
    names, _, values = re.search(
        r"so that a whole int4 file has\n\n(.+)\n(.+)\n(.+)\n", docs
    ).groups()
    assert names == f"| {' | '.join(bits)} |"
    assert values == f"| {' | '.join(bits.values())} |"
    models = " ".join((ROOT / "docs/models.md").read_text("utf-8").split())
    first, second, third, fourth = bits.values()
    assert (
        f"{first} bits per weight at 350M, {second} at 2B, {third} at 6B and {fourth} at 16B"
        in models
    )
