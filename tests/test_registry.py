"""models.toml holds what the formats' sizes say, and every spelling of a model is understood."""

import csv
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.hub.entries import BUNDLED, ModelEntry, ModelSize, entries, known_entry
from codegen_cli.machine import places
from codegen_cli.models import registry
from codegen_cli.models.absence import not_here
from codegen_cli.models.local_models import local_files
from codegen_cli.models.registry import CheckpointModel, KnownModel, PackedModel
from quantize.description.config import parse_config
from quantize.description.tensor_map import TensorSpec, tensor_specs
from quantize.files.errors import UserError
from quantize.packed import layout
from quantize.packed.packed_file import read_packed_file
from quantize.packed.sizes import stored_format
from quantize.quantize_model import quantize

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE_BYTES = 150_000_000  # Python, its libraries, the tokenizer and the activations
SIZES = {entry.size: entry.name for entry in entries()}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A CODEGEN_HOME of the test's own; the working directory is empty too."""
    directory = tmp_path / "home"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("CODEGEN_HOME", str(directory))
    monkeypatch.chdir(work)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small_config()
    return write_checkpoint(
        tmp_path_factory.mktemp("hub") / "codegen-350M-mono", config, random_tensors(config, 1)
    )


@pytest.fixture(scope="module")
def packed(checkpoint: Path) -> Path:
    target = checkpoint.parent / "mine.safetensors"
    quantize(checkpoint, target, "int8", name="350M-mono")
    return target


def specs_of(size: ModelSize) -> list[TensorSpec]:
    names = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")
    fields = {name: getattr(size, name) for name in names}
    published = {
        "model_type": "codegen",
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    }
    return tensor_specs(parse_config(published | fields, "models.toml"))


def n_numbers(spec: TensorSpec) -> int:
    n_rows, n_columns = (*spec.shape, 1)[:2]
    return n_rows * n_columns


@pytest.mark.parametrize("size", SIZES, ids=SIZES.values())
def test_parameters_and_download_bytes_are_those_of_the_tensors(size: ModelSize) -> None:
    assert size.head_dim * size.n_head == size.n_embd
    assert size.parameters == sum(n_numbers(spec) for spec in specs_of(size))
    masks_bytes = size.n_layer * size.n_positions**2
    assert size.download_bytes in (0, 2 * size.parameters + masks_bytes)


@pytest.mark.parametrize("size", SIZES, ids=SIZES.values())
def test_packed_and_memory_bytes_are_those_of_the_layout(size: ModelSize) -> None:
    cache_bytes = 2 * 2 * size.n_layer * size.n_positions * size.n_embd
    for format in registry.FORMATS:
        packed_bytes = sum(
            layout.payload_bytes(stored_format(spec, format), spec.shape) for spec in specs_of(size)
        )
        assert size.packed_bytes[format] == packed_bytes
        assert size.memory_bytes[format] == packed_bytes + cache_bytes + BASE_BYTES


def test_there_are_twelve_checkpoints_and_one_bundled_model() -> None:
    *published, bundled = entries()
    assert [entry.name for entry in published] == [
        f"{size}-{family}"
        for size in ("350M", "2B", "6B", "16B")
        for family in ("nl", "multi", "mono")
    ]
    for entry in published:
        assert entry.repository == f"Salesforce/codegen-{entry.name}"
        assert (entry.revision, entry.licence) == ("main", "BSD-3-Clause")
        assert entry.name.endswith(f"-{entry.family}")
        assert entry.size is not None
        assert entry.size.download_bytes > 2 * entry.size.parameters
    assert (bundled.name, bundled.repository) == (BUNDLED, "")


def test_the_bundled_entry_describes_the_bundled_file() -> None:
    packed = read_packed_file(places.bundled_model())
    size = known_entry(BUNDLED).size
    assert size is not None
    for name in ("n_layer", "n_embd", "n_head", "head_dim", "rotary_dim", "n_positions"):
        assert getattr(size, name) == getattr(packed.config, name)
    overhead_bytes = packed.path.stat().st_size - size.packed_bytes[packed.format]
    assert 0 < overhead_bytes - len(packed.tokenizer_json) < 100_000


def test_notices_list_every_source_that_the_bundled_model_was_trained_on() -> None:
    directory = places.bundled_model().parent
    notices = (directory / "NOTICES.md").read_text("utf-8")
    with (directory / "sources.csv").open(encoding="utf-8", newline="") as file:
        sources = list(csv.DictReader(file))
    for source in sources:
        line = f"\n- {source['repository']} ({source['commit']})\n"
        assert (line in notices) == (int(source["files"]) > 0), source["repository"]
        assert source["licence"].split("(")[0] != "REJECTED" or source["files"] == "0"


@pytest.mark.parametrize(
    "name",
    [
        "350M-mono",
        "350m-MONO",
        "350M_mono",
        " 350M-mono ",
        "codegen-350m-mono",
        "CodeGen_350M_Mono",
        "Salesforce/codegen-350M-mono",
        "salesforce/CODEGEN-350m-mono",
    ],
)
def test_every_spelling_means_the_same_model(name: str) -> None:
    entry = known_entry(name)
    assert entry.name == "350M-mono"
    assert registry.resolve(name) == KnownModel(entry, None, None)


@pytest.mark.parametrize(
    ("name", "nearest"), [("350M-mno", "350M-mono"), ("codegen-16b-mult", "16B-multi")]
)
def test_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    for find in (registry.resolve, registry.resolve_source):
        with pytest.raises(UserError) as raised:
            find(name)
        assert raised.value.message == f"unknown model {name!r}"
        assert raised.value.hint.startswith(f"Did you mean {nearest}")
        assert "Known models: 350M-nl, 350M-multi, " in raised.value.hint


@pytest.mark.parametrize("name", ["", "  ", "gpt2", "no\0name"])
def test_name_like_none_of_ours_lists_the_known_models(name: str) -> None:
    with pytest.raises(UserError) as raised:
        registry.resolve(name)
    assert raised.value.message == f"unknown model '{name}'"
    assert raised.value.hint.startswith("Known models: 350M-nl")


def test_a_format_may_follow_the_name() -> None:
    entry = known_entry("2B-nl")
    assert registry.resolve("Salesforce/codegen-2B-nl:INT4") == KnownModel(entry, "int4", None)
    with pytest.raises(UserError) as raised:
        registry.resolve("2B-nl:int3")
    assert raised.value.message == "unknown format 'int3' in '2B-nl:int3'"
    assert "int4, int8, f16" in raised.value.hint


def test_int4_is_preferred_to_int8_and_f16_among_packed_files(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    for format in ("f16", "int8", "int4"):
        path = home / "models" / f"350M-mono.{format}.safetensors"
        assert path == registry.packed_path("350M-mono", format)
        path.touch()
        resolved = registry.resolve("350m-mono")
        assert isinstance(resolved, KnownModel)
        assert resolved.packed == path
        assert registry.resolve("350m-mono:f16").packed.name == "350M-mono.f16.safetensors"  # type: ignore[union-attr]


def test_a_format_that_is_not_packed_is_not_replaced_by_another(home: Path) -> None:
    path = registry.packed_path("350M-mono", "int4")
    path.parent.mkdir(parents=True)
    path.touch()
    assert registry.resolve("350M-mono:int8") == KnownModel(known_entry("350M-mono"), "int8", None)


def test_the_bundled_model_needs_no_packing() -> None:
    bundled = PackedModel(places.bundled_model(), BUNDLED)
    assert registry.resolve("nano") == bundled
    assert registry.resolve("Nano:int8") == bundled
    with pytest.raises(UserError) as raised:
        registry.resolve("nano:int4")
    assert raised.value.message == "nano does not come as int4"
    with pytest.raises(UserError, match="nano is packed already"):
        registry.resolve_source("nano")


def test_a_packed_checkpoint_of_ones_own_is_found_by_its_name(home: Path) -> None:
    path = registry.packed_path("mine", "int8")
    path.parent.mkdir(parents=True)
    path.touch()
    assert registry.resolve("mine") == PackedModel(path, "mine")
    with pytest.raises(UserError, match="unknown model 'mine'"):
        registry.resolve_source("mine")


def test_owner_and_name_that_are_no_path_are_a_hub_repository(home: Path) -> None:
    entry = ModelEntry("someone/codegen-copy", repository="someone/codegen-copy")
    assert registry.resolve("someone/codegen-copy") == KnownModel(entry, None, None)
    packed = registry.packed_path(entry.name, "int8")
    assert packed.parent == home / "models"
    packed.parent.mkdir(parents=True)
    packed.touch()
    assert registry.resolve_source("someone/codegen-copy:int8") == KnownModel(entry, "int8", packed)


@pytest.mark.parametrize(
    "path", ["./350M-mono", "/no/where", "a/b/c", "out/x.safetensors", "x.bin", "here/typo", "a/"]
)
def test_missing_path_is_not_taken_for_a_name(path: str) -> None:
    Path("here").mkdir()
    with pytest.raises(UserError) as raised:
        registry.resolve(path)
    assert raised.value.message == f"no such file or directory: {path}"
    assert "checkpoint directory" in raised.value.hint


def test_path_below_a_file_says_why_it_cannot_be_read() -> None:
    Path("file").touch()
    with pytest.raises(UserError) as raised:
        registry.resolve("file/model.safetensors")
    reason = os.strerror(errno.ENOTDIR)
    assert raised.value.message == f"cannot read file/model.safetensors: {reason}"


def test_a_home_that_is_a_file_holds_no_model_and_is_named_where_one_is_missing(home: Path) -> None:
    home.touch()
    found = registry.resolve("350M-mono")
    assert found == KnownModel(known_entry("350M-mono"), None, None)
    for error in (not_here(found), registry._unknown_model("mine")):
        assert f"cannot read {home}/models: {os.strerror(errno.ENOTDIR)}" in error.message
        assert "CODEGEN_HOME" in error.hint


def test_packed_file_is_recognised_by_its_content(packed: Path) -> None:
    assert registry.resolve(str(packed)) == PackedModel(packed, "mine")
    with pytest.raises(UserError) as raised:
        registry.resolve_source(str(packed))
    assert raised.value.message == f"{packed} is packed already"
    renamed = Path("weights.gguf")
    renamed.symlink_to(packed)
    assert registry.resolve("weights.gguf") == PackedModel(renamed, "weights.gguf")


def test_checkpoint_directory_and_its_weight_file_have_the_models_name(checkpoint: Path) -> None:
    for path in (checkpoint, checkpoint / "model.safetensors"):
        expected = CheckpointModel(path, "350M-mono")
        assert registry.resolve(str(path)) == expected
        assert registry.resolve_source(str(path)) == expected


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("models--Salesforce--codegen-2B-nl/snapshots/0123abcd", "2B-nl"),
        ("models--someone--copy/snapshots/0123abcd", "someone/copy"),
        (f"models--someone--copy/snapshots/{COMMIT}", f"someone/copy@{COMMIT}"),
        ("fine-tuned", "fine-tuned"),
    ],
)
def test_checkpoint_in_the_hubs_cache_is_named_after_its_repository(
    directory: str, name: str
) -> None:
    path = Path(directory)
    path.mkdir(parents=True)
    (path / "config.json").touch()
    assert registry.resolve_source(str(path)) == CheckpointModel(path, name)


@pytest.mark.parametrize(
    ("refs", "name"),
    [
        (["main", "v1"], "350M-mono"),
        (["refs/pr/3"], "350M-mono@refs/pr/3"),
        (["v2", "v1"], "350M-mono@v1"),
        ([], f"350M-mono@{COMMIT}"),
    ],
)
def test_a_snapshot_is_named_after_what_is_at_its_commit(refs: list[str], name: str) -> None:
    repository = Path("models--Salesforce--codegen-350M-mono")
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    for ref, commit in [("other", "f" * 40), *((ref, COMMIT) for ref in refs)]:
        (repository / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    assert registry.resolve_source(str(snapshot)) == CheckpointModel(snapshot, name)


# --- revisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "revision", "format", "file"),
    [
        ("350m-mono@v1.0:int4", "350M-mono@v1.0", "v1.0", "int4", "350M-mono@v1.0.int4"),
        (
            "Salesforce/codegen-350M-mono@refs/pr/3",
            "350M-mono@refs/pr/3",
            "refs/pr/3",
            None,
            "350M-mono@refs~pr~3.int8",
        ),
        (
            f"owner/name@{COMMIT}",
            f"owner/name@{COMMIT}",
            COMMIT,
            None,
            f"owner--name@{COMMIT}.int8",
        ),
        ("owner/name@a--b/c", "owner/name@a--b/c", "a--b/c", None, "owner--name@a--b~c.int8"),
        ("350M-mono@main", "350M-mono", "main", None, "350M-mono.int8"),
    ],
)
def test_a_revision_follows_a_name_and_has_a_packed_file_of_its_own(
    home: Path, model: str, name: str, revision: str, format: str | None, file: str
) -> None:
    found = registry.resolve(model)
    assert isinstance(found, KnownModel)
    assert (found.name, found.entry.revision) == (name, revision)
    assert (found.format, found.packed) == (format, None)
    assert registry.split_name(model)[0] == (name if "owner" not in name else model)
    path = home / "models" / f"{file}.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    again = registry.resolve(model)
    assert isinstance(again, KnownModel)
    assert again.packed == path
    assert [each.name for each in local_files()] == [name]
    assert registry.resolve_source(model) == again
    assert registry.resolve_download(model) == again


def test_a_revision_apart_is_that_after_the_name() -> None:
    for name in ("350M-mono", "owner/name"):
        expected = registry.resolve(f"{name}@refs/pr/3")
        assert registry.resolve_download(name, "refs/pr/3") == expected
        assert registry.resolve_download(f"{name}@refs/pr/3", "refs/pr/3") == expected
        assert registry.resolve_download(name, "main") == registry.resolve(name)
        with pytest.raises(UserError, match=f"{name}@v1 is a revision, and v2 another"):
            registry.resolve_download(f"{name}@v1", "v2")
    Path("350M.bin").touch()
    with pytest.raises(UserError, match="is on this machine: there is nothing to download"):
        registry.resolve_download("350M.bin", "v1")


@pytest.mark.parametrize("model", ["350M-mono", "owner/name"])
@pytest.mark.parametrize(
    "revision",
    [
        *("", "..", "a/../b", "../../x", "/etc", "a//b", "a/", ".a", "a/.b", "-f", "a b", "a\n"),
        *("\0", "\x1b[31m", "é", "a~b", "a@b", "a" * 101, "%2e"),
    ],
)
def test_what_can_be_no_revision_is_refused_by_name(model: str, revision: str) -> None:
    for resolve in (registry.resolve, registry.resolve_source, registry.resolve_download):
        with pytest.raises(UserError) as raised:
            resolve(f"{model}@{revision}")
        assert raised.value.message == f"{model}: {revision[:100]!r} is no revision"
        assert "refs/pr/3" in raised.value.hint
    with pytest.raises(UserError, match="is no revision"):
        registry.resolve_download(model, revision)


def test_the_bundled_model_has_no_revisions_and_an_unknown_name_is_told_without_its_own() -> None:
    with pytest.raises(UserError, match="nano comes with the program: it has no revisions"):
        registry.resolve("nano@main")
    with pytest.raises(UserError, match="unknown model '350M-momo@v1'") as raised:
        registry.resolve("350M-momo@v1")
    assert "Did you mean 350M-mono or" in raised.value.hint


def test_a_path_that_holds_an_at_sign_stays_one() -> None:
    for directory in ("350M-mono@v1", "owner/name@v1", "a@..b"):
        Path(directory).mkdir(parents=True)
        (Path(directory) / "config.json").touch()
        assert isinstance(registry.resolve(directory), CheckpointModel)
        assert isinstance(registry.resolve(str(Path(directory).absolute())), CheckpointModel)
    assert isinstance(registry.resolve("350M-mono@v1", is_default=True), KnownModel)
    with pytest.raises(UserError, match=r"no such file or directory: out/x@v1\.safetensors"):
        registry.resolve("out/x@v1.safetensors")


def test_a_revision_that_is_not_here_is_told_with_the_commands_that_bring_it() -> None:
    found = registry.resolve("350M-mono@refs/pr/3:int4")
    assert isinstance(found, KnownModel)
    error = not_here(found)
    assert error.message == "350M-mono@refs/pr/3:int4 is not on this machine"
    assert error.hint == (
        "codegen download 350M-mono@refs/pr/3 && codegen quantize 350M-mono@refs/pr/3 --format int4"
    )


def test_directory_without_config_is_not_a_checkpoint() -> None:
    Path("empty").mkdir()
    with pytest.raises(UserError) as raised:
        registry.resolve("empty")
    assert raised.value.message == "empty is not a checkpoint: it has no config.json"
    assert "tokenizer.json" in raised.value.hint


def test_file_of_another_kind_is_refused() -> None:
    Path("notes.txt").write_text("hello")
    with pytest.raises(UserError) as raised:
        registry.resolve("notes.txt")
    assert raised.value.message == "notes.txt is neither a packed model nor a checkpoint's weights"


def test_known_name_wins_over_a_directory_of_that_name_but_a_path_does_not() -> None:
    for directory in ("350M-mono", "Salesforce/codegen-350M-mono"):
        Path(directory).mkdir(parents=True)
        (Path(directory) / "config.json").touch()
    assert isinstance(registry.resolve("350M-mono"), KnownModel)
    for path in ("./350M-mono", "Salesforce/codegen-350M-mono"):
        assert registry.resolve(path) == CheckpointModel(Path(path), "350M-mono")


def test_name_packed_by_the_user_wins_over_a_directory_except_as_a_source(home: Path) -> None:
    Path("mine").mkdir()
    Path("mine/config.json").touch()
    path = registry.packed_path("mine", "int4")
    path.parent.mkdir(parents=True)
    path.touch()
    assert registry.resolve("mine") == PackedModel(path, "mine")
    assert registry.resolve_source("mine") == CheckpointModel(Path("mine"), "mine")


def test_importing_names_settings_and_commands_loads_nothing_heavy() -> None:
    script = (
        "import sys, codegen_cli.models.registry, codegen_cli.models.settings\n"
        "import codegen_cli.commands.download\n"
        "heavy = {'numpy', 'numba', 'huggingface_hub', 'rich', 'tokenizers', 'tomllib'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"
