"""The hub's real client, called through our modules in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# The client reads its environment when it is imported, so each test runs it in a process. A line of
# stdin is ["download", "again" or "cached_checkpoint", repository, revision], one of stdout the
# answer.
CLIENT = """
import json, sys, time
from codegen_cli.hub.download import download
from codegen_cli.hub.stored.cache import cached_checkpoint
from codegen_cli.hub.entries import ModelEntry
from quantize.files.errors import UserError

time.sleep = lambda seconds: None  # the client waits before it tries again
for line in sys.stdin:
    call, repository, revision = json.loads(line)
    entry = ModelEntry(repository, repository=repository, revision=revision)
    events, checks = [], []
    def on_event(event):
        told = checks if event.is_check else events
        told.append([event.file, event.done_bytes, event.total_bytes])
    try:
        if call == "cached_checkpoint":
            path = cached_checkpoint(entry)
        else:
            path = download(entry, on_event, force=call == "again")
        answer = {"path": path and str(path), "events": events, "checks": checks}
    except UserError as error:
        answer = {"message": error.message, "hint": error.hint}
    print(json.dumps(answer))
"""
FILES = {
    "README.md": b"# A model\n",
    "config.json": b'{"model_type": "codegen"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "vocab.json": b"{}",
    "pytorch_model.bin": bytes(range(256)) * 1000,
}

DOWNLOAD = ("download", "someone/model", "main")
AGAIN = ("again", "someone/model", "main")
CACHED = ("cached_checkpoint", "someone/model", "main")


def environment(endpoint: str, hf_home: Path, **changes: str) -> dict[str, str]:
    """The environment of a user who has the hub at `endpoint` and no settings of his own."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    return inherited | {"HF_ENDPOINT": endpoint, "HF_HOME": str(hf_home)} | changes


def ask(env: dict[str, str], *calls: tuple[str, str, str], **options: Any) -> list[dict[str, Any]]:
    """Make calls of our modules in one process; return their answers, with all of its stderr."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLIENT],
        input="".join(json.dumps(call) + "\n" for call in calls),
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert ran.returncode == 0, ran.stderr
    assert all(line.startswith("codegen: ") for line in ran.stderr.splitlines()), ran.stderr
    return [json.loads(line) | {"stderr": ran.stderr} for line in ran.stdout.splitlines()]


def run_codegen(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `codegen ARGUMENTS...` to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "codegen_cli", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
