"""The models directory: files come in whole and checked, go alone, and nothing else is touched."""

import os
from pathlib import Path

import pytest
from packed import flip_bit, write_packed

from codegen_cli.machine import places
from codegen_cli.models import settings
from codegen_cli.models.local_models import (
    find_local_files,
    import_file,
    import_name,
    local_files,
    remove_file,
)
from codegen_cli.models.model_default import default_for, forget_missing_default
from codegen_cli.models.registry import packed_path
from codegen_cli.models.verification import files_to_verify, require_sound, verify_file
from codegen_cli.session.one_part import logits_of
from quantize.files.errors import UserError


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    return places.models_dir()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_packed(tmp_path / "usb" / "tiny.int8.safetensors")


def take_in(source: Path, name: str = "tiny", *, replace: bool = False) -> Path:
    return import_file(source, name, "int8", judge=require_sound, replace=replace)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- listed ---------------------------------------------------------------------------------------


def test_without_a_models_directory_there_are_no_files(models: Path) -> None:
    assert local_files() == []
    assert not models.exists()


def test_files_are_listed_by_name_and_preferred_format_whatever_else_lies_there(
    models: Path,
) -> None:
    (models / "a.int4.safetensors").mkdir(parents=True)
    for name in (
        "b.int8.safetensors",
        "b.int4.safetensors",
        "b.int3.safetensors",
        "owner--it.f16.safetensors",
        "a.b.f16.safetensors",
        "模型.int8.safetensors",
        ".b.int8.safetensors.0f.part",
        ".hidden.int8.safetensors",
        "notes.txt",
    ):
        (models / name).touch()
    assert [(file.name, file.format) for file in local_files()] == [
        ("a.b", "f16"),
        ("b", "int4"),
        ("b", "int8"),
        ("owner/it", "f16"),
        ("模型", "int8"),
    ]


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("350M-mono", ["int4", "int8"]),
        ("salesforce/codegen-350m_mono:int8", ["int8"]),
        ("owner/it", ["f16"]),
        ("owner--it:f16", ["f16"]),
        ("codegen-350m-mono@refs/pr/3", ["int4"]),
        ("owner/it@a--b:f16", ["f16"]),
    ],
)
def test_a_name_in_any_spelling_finds_its_files(models: Path, model: str, found: list[str]) -> None:
    models.mkdir(parents=True)
    names = ["350M-mono.int8", "350M-mono.int4", "owner--it.f16"]
    for name in (*names, "350M-mono@refs~pr~3.int4", "owner--it@a--b.f16"):
        (models / f"{name}.safetensors").touch()
    assert [file.format for file in find_local_files(model)] == found


@pytest.mark.parametrize(
    "model",
    ["..", "../usb/tiny", "../../etc/passwd", "/etc/passwd", "", ".", "tiny:f16", "*", "\0"],
)
def test_no_text_finds_a_file_outside_the_models_directory(
    models: Path, source: Path, model: str
) -> None:
    take_in(source)
    with pytest.raises(UserError, match="no packed file of") as raised:
        find_local_files(model)
    assert raised.value.hint == "There are: tiny:int8"


def test_the_bundled_model_cannot_be_found_for_removal() -> None:
    with pytest.raises(UserError, match="the bundled model belongs to the program"):
        find_local_files("nano")


# --- removed --------------------------------------------------------------------------------------


def test_a_removed_link_leaves_the_file_that_it_names(models: Path, source: Path) -> None:
    models.mkdir(parents=True)
    (models / "linked.int8.safetensors").symlink_to(source)
    [file] = find_local_files("linked")
    assert remove_file(file.path)
    assert source.exists()
    assert names_in(models) == []


def test_a_file_that_has_gone_is_no_error(source: Path) -> None:
    take_in(source)
    [file] = local_files()
    assert remove_file(file.path)
    assert not remove_file(file.path)
    assert file.file_bytes == 0


@pytest.mark.parametrize(
    ("default", "removed", "is_reset"),
    [
        ("tiny", "tiny", True),
        ("tiny", "tiny:int8", True),
        ("tiny:int8", "tiny", True),
        ("TINY", "tiny", False),  # another name, which runs nothing and never did
        ("other", "tiny", False),
        ("nano", "tiny", False),
    ],
)
def test_the_default_is_forgotten_when_its_last_file_goes(
    source: Path, default: str, removed: str, is_reset: bool
) -> None:
    take_in(source)
    take_in(source, "other")
    settings.set_default_model(default)
    files = find_local_files(removed)
    for file in files:
        remove_file(file.path)
    assert forget_missing_default(files) == (default if is_reset else None)
    assert settings.default_model() == (None if is_reset else default)


def test_the_default_stays_while_another_format_can_run(source: Path) -> None:
    take_in(source)
    packed_path("tiny", "int4").touch()
    settings.set_default_model("tiny")
    [file] = find_local_files("tiny:int4")
    remove_file(file.path)
    assert forget_missing_default([file]) is None
    assert settings.default_model() == "tiny"


def test_a_default_that_is_a_path_goes_with_its_file(source: Path) -> None:
    path = take_in(source)
    settings.set_default_model(str(path))
    [file] = local_files()
    remove_file(file.path)
    assert forget_missing_default([file]) == str(path)


# --- the default ----------------------------------------------------------------------------------


def test_a_default_is_kept_by_canonical_name_or_absolute_path(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(source, "350M-mono")
    assert default_for("Salesforce/codegen-350m-mono") == "350M-mono"
    assert default_for("350m-mono:int8") == "350M-mono:int8"
    assert default_for("nano") == "nano"
    monkeypatch.chdir(source.parent)
    assert default_for(source.name) == str(source)


def test_a_model_that_is_not_here_cannot_be_the_default() -> None:
    with pytest.raises(UserError, match="2B-mono is not on this machine") as raised:
        default_for("2B-mono")
    assert "codegen download 2B-mono" in raised.value.hint


# --- imported -------------------------------------------------------------------------------------


def test_an_imported_file_is_the_same_file_where_the_disk_allows(source: Path) -> None:
    target = take_in(source)
    assert target.samefile(source)
    assert names_in(target.parent) == ["tiny.int8.safetensors"]
    source.unlink()
    assert verify_file(target).is_sound


def test_a_file_of_another_disk_is_copied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    target = take_in(source)
    assert not target.samefile(source)
    assert target.read_bytes() == source.read_bytes()
    assert names_in(target.parent) == ["tiny.int8.safetensors"]


def test_a_link_is_followed_when_it_is_imported(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    target = take_in(tmp_path / "link")
    assert not target.is_symlink()
    assert target.samefile(source)


def test_importing_twice_changes_nothing(source: Path) -> None:
    assert take_in(source) == take_in(source)
    assert take_in(source, replace=True).samefile(source)
    assert names_in(places.models_dir()) == ["tiny.int8.safetensors"]
    assert take_in(packed_path("tiny", "int8")).samefile(source)


def test_another_model_is_replaced_only_by_force(source: Path, tmp_path: Path) -> None:
    target = take_in(source)
    other = write_packed(tmp_path / "other", seed=4)
    before = target.read_bytes()
    with pytest.raises(UserError, match="exists") as raised:
        take_in(other)
    assert "--force" in raised.value.hint
    assert target.read_bytes() == before
    assert take_in(other, replace=True).read_bytes() == other.read_bytes()
    assert names_in(target.parent) == [target.name]


def test_a_model_that_appears_during_the_check_is_not_replaced(source: Path) -> None:
    target = packed_path("tiny", "int8")

    def judge(path: Path) -> None:
        target.write_bytes(b"of another process")

    with pytest.raises(UserError, match="exists"):
        import_file(source, "tiny", "int8", judge=judge, replace=False)
    assert target.read_bytes() == b"of another process"
    assert names_in(target.parent) == [target.name]


def test_a_damaged_file_is_refused_and_nothing_is_left(source: Path) -> None:
    flip_bit(source, -1)
    with pytest.raises(UserError, match=r"is damaged: lm_head\.bias"):
        take_in(source)
    assert names_in(places.models_dir()) == []


def test_a_full_disk_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5}))
    with pytest.raises(UserError, match="0 MB are free, need"):
        take_in(source)
    assert names_in(places.models_dir()) == []


@pytest.mark.parametrize(
    ("wanted", "stated", "file", "name"),
    [
        ("mine", "tiny", "x.safetensors", "mine"),
        (None, "tiny", "x.safetensors", "tiny"),
        (None, "", "some.int4.safetensors", "some"),
        (None, "", "some.safetensors", "some"),
        (None, "Salesforce/codegen-350M-mono", "x", "350M-mono"),
        ("owner/name", "", "x", "owner/name"),
        ("模型", "", "x", "模型"),
        (None, "codegen-350m-mono@refs/pr/3", "x", "350M-mono@refs/pr/3"),
        ("owner/name@v1", "", "x", "owner/name@v1"),
    ],
)
def test_an_imported_model_is_called_as_wanted_or_as_it_says(
    wanted: str | None, stated: str, file: str, name: str
) -> None:
    assert import_name(wanted, stated, Path("/usb") / file) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../x",
            "a/b/c",
            "/etc/x",
            "..",
            "a b",
            "a:int4",
            "-m",
            ".x",
            "\x1b[31m",
            "x" * 300,
            "a\n",
        ),
        *("350M-mono@", "350M-mono@..", "350M-mono@a/../b", "owner/name@/x", "a@b/c"),
    ],
)
def test_a_name_that_no_command_line_could_say_is_refused(name: str) -> None:
    for wanted, stated in ((name, ""), (None, name)):
        with pytest.raises(UserError, match="a model cannot be called") as raised:
            import_name(wanted, stated, Path("x"))
        assert "--name" in raised.value.hint


def test_no_import_takes_the_bundled_models_place() -> None:
    with pytest.raises(UserError, match="nano is the bundled model"):
        import_name(None, "codegen-nano", Path("x"))


# --- verified -------------------------------------------------------------------------------------


def test_without_names_all_packed_files_are_verified(source: Path) -> None:
    assert files_to_verify([]) == [places.bundled_model()]
    target = take_in(source)
    assert files_to_verify([]) == [target, places.bundled_model()]


def test_a_name_means_all_its_formats_and_a_file_itself(source: Path) -> None:
    target = take_in(source)
    packed_path("tiny", "int4").touch()
    assert files_to_verify(["tiny"]) == [packed_path("tiny", "int4"), target]
    assert files_to_verify(["tiny:int8", "nano", str(source)]) == [
        target,
        places.bundled_model(),
        source,
    ]


@pytest.mark.skipif(os.name == "nt", reason="a file that is in use cannot be removed")
def test_a_model_runs_on_when_its_file_is_removed(
    home: Path, source: Path, compiled_kernels: None
) -> None:
    from codegen_cli.session.engines import open_engine

    places.data_dir().mkdir()
    places.cache_dir().symlink_to(home / "cache")
    before = open_engine(source)
    ids = [1, 2, 3, 4]
    expected = logits_of(before, ids, before.new_cache())
    target = take_in(source)
    model = open_engine(target)
    source.unlink()
    [file] = local_files()
    assert remove_file(file.path)
    assert logits_of(model, ids, model.new_cache()).tobytes() == expected.tobytes()
    before.close()
    model.close()
