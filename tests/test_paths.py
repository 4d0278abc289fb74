"""The directories that the environment chooses, and the files that ship with the package."""

import tomllib
from pathlib import Path

import pytest

from codegen_cli.store import paths


def test_codegen_home_holds_data_models_and_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    assert paths.data_dir() == tmp_path
    assert paths.models_dir() == tmp_path / "models"
    assert paths.cache_dir() == tmp_path / "cache"


def test_asking_for_a_directory_creates_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    paths.models_dir()
    paths.cache_dir()
    assert not list(tmp_path.iterdir())


def test_relative_codegen_home_is_of_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODEGEN_HOME", "home")
    assert paths.data_dir() == tmp_path / "home"


@pytest.mark.parametrize("home", [None, ""])
def test_without_codegen_home_data_and_cache_are_the_users(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    if home is None:
        monkeypatch.delenv("CODEGEN_HOME", raising=False)
    else:
        monkeypatch.setenv("CODEGEN_HOME", home)
    for directory in (paths.data_dir(), paths.cache_dir()):
        assert directory.is_absolute()
        assert "codegen" in directory.parts
    assert paths.data_dir() != paths.cache_dir()


def test_models_toml_is_found_in_this_checkout_or_installation() -> None:
    assert "models" in tomllib.loads(paths.models_toml().read_text("utf-8"))


def test_models_toml_of_an_installed_package_wins_over_one_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "codegen_cli"
    package.mkdir()
    (tmp_path / "models.toml").touch()
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.models_toml() == tmp_path / "models.toml"
    (package / "models.toml").touch()
    assert paths.models_toml() == package / "models.toml"


def test_bundled_model_lies_in_the_package_with_its_card_and_notices() -> None:
    directory = paths.bundled_model().parent
    assert paths.PACKAGE in directory.parents
    for name in ("MODEL_CARD.md", "NOTICES.md", "sources.csv"):
        assert (directory / name).stat().st_size > 0
