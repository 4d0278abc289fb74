"""The directories that the environment chooses, and the files that ship with the package."""

import sys
import tomllib
from pathlib import Path

import pytest

from codegen_cli.machine import places
from codegen_cli.machine.places import NoHome

if sys.platform != "win32":
    import pwd


def test_codegen_home_holds_data_models_and_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    assert places.data_dir() == tmp_path
    assert places.models_dir() == tmp_path / "models"
    assert places.cache_dir() == tmp_path / "cache"


def test_asking_for_a_directory_creates_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    places.models_dir()
    places.cache_dir()
    assert not list(tmp_path.iterdir())


def test_relative_codegen_home_is_of_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODEGEN_HOME", "home")
    assert places.data_dir() == tmp_path / "home"


@pytest.mark.parametrize("home", [None, ""])
def test_without_codegen_home_data_and_cache_are_the_users(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    if home is None:
        monkeypatch.delenv("CODEGEN_HOME", raising=False)
    else:
        monkeypatch.setenv("CODEGEN_HOME", home)
    for directory in (places.data_dir(), places.cache_dir()):
        assert directory.is_absolute()
        assert "codegen" in directory.parts
    assert places.data_dir() != places.cache_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="homes as Linux has them")
@pytest.mark.parametrize("home", ["", "relative", None])
def test_a_home_that_is_no_absolute_path_is_the_one_of_the_users_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    for name in ("CODEGEN_HOME", "HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    entry = pwd.struct_passwd(("me", "x", 1, 1, "", str(tmp_path), ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    assert places.data_dir() == tmp_path / ".local/share/codegen"
    assert places.cache_dir() == tmp_path / ".cache/codegen"


@pytest.mark.skipif(sys.platform != "linux", reason="homes as Linux has them")
@pytest.mark.parametrize(
    ("home", "told"),
    [
        (None, "this user has no home directory"),
        ("", "this user has no home directory"),
        ("relative", "HOME is 'relative', no absolute path"),
    ],
)
def test_without_home_and_entry_every_directory_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, home: str | None, told: str
) -> None:
    for name in ("CODEGEN_HOME", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for find in (places.data_dir, places.cache_dir, places.models_dir, places.packed_copies_dir):
        with pytest.raises(NoHome) as raised:
            find()
        assert raised.value.message == told
        assert "CODEGEN_HOME" in raised.value.hint
    assert places.find_models_dir() is None
    assert not places.is_ours(Path("models"))


def test_codegen_home_of_an_unknown_user_or_in_a_directory_that_is_gone_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", "~no-such-user/x")
    with pytest.raises(NoHome, match="CODEGEN_HOME is ~no-such-user/x, and there is no such user"):
        places.data_dir()
    monkeypatch.setenv("CODEGEN_HOME", "relative")

    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("os.getcwd", gone)
    with pytest.raises(NoHome, match="in a working directory that is gone"):
        places.data_dir()


def test_models_toml_is_found_in_this_checkout_or_installation() -> None:
    assert "models" in tomllib.loads(places.models_toml().read_text("utf-8"))


def test_models_toml_of_an_installed_package_wins_over_one_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "codegen_cli"
    package.mkdir()
    (tmp_path / "models.toml").touch()
    monkeypatch.setattr(places, "PACKAGE", package)
    assert places.models_toml() == tmp_path / "models.toml"
    (package / "models.toml").touch()
    assert places.models_toml() == package / "models.toml"


def test_bundled_model_lies_in_the_package_with_its_card_and_notices() -> None:
    directory = places.bundled_model().parent
    assert places.PACKAGE in directory.parents
    for name in ("MODEL_CARD.md", "NOTICES.md", "sources.csv"):
        assert (directory / name).stat().st_size > 0
