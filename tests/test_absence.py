"""The one error for a model that is not on this machine: what it needs, and what hides it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from ordinary_user import as_ordinary_user

from codegen_cli.models.absence import not_here
from codegen_cli.models.registry import KnownModel, known_entry

MODEL = known_entry("350M-mono")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(cache: Path) -> Path:
    """What a download leaves; return the snapshot."""
    repository = cache / f"models--{MODEL.repository.replace('/', '--')}"
    config = small_config()
    write_checkpoint(repository / "snapshots" / "c0", config, random_tensors(config, seed=1))
    (repository / "refs").mkdir()
    (repository / "refs" / MODEL.revision).write_text("c0")
    return repository / "snapshots" / "c0"


@pytest.mark.parametrize(
    ("format", "is_source", "message", "hint"),
    [
        (None, False, "350M-mono", "codegen download 350M-mono && codegen quantize 350M-mono"),
        (
            "int4",
            False,
            "350M-mono:int4",
            "codegen download 350M-mono && codegen quantize 350M-mono --format int4",
        ),
        (None, True, "350M-mono", "codegen download 350M-mono"),
    ],
)
def test_the_hint_names_the_steps_that_are_missing(
    format: str | None, is_source: bool, message: str, hint: str
) -> None:
    error = not_here(KnownModel(MODEL, format, None), is_source=is_source)
    assert (error.message, error.hint) == (f"{message} is not on this machine", hint)


def test_a_downloaded_model_lacks_only_the_format(cache: Path) -> None:
    download(cache)
    error = not_here(KnownModel(MODEL, "f16", None))
    assert error.hint == "codegen quantize 350M-mono --format f16"


@pytest.mark.skipif(os.name == "nt", reason="modes as POSIX has them")
def test_a_cache_that_may_not_be_read_is_named_by_who_would_run_the_model(cache: Path) -> None:
    snapshot = download(cache)
    snapshot.parent.chmod(0)
    command = [sys.executable, "-m", "codegen_cli", "complete", "-m", "350M-mono", "x"]
    ran = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=as_ordinary_user, check=False
    )
    snapshot.parent.chmod(0o700)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert (
        "350M-mono is not on this machine, as far as can be seen: "
        f"cannot read {snapshot.parent}: Permission denied"
    ) in ran.stderr
    assert "HF_HUB_CACHE" in ran.stderr
