"""A size -> a random checkpoint and, from it, the file each engine runs; what is there is kept."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import places

# f16 first: llama.cpp quantizes from it.
MODELS = (
    ("350M", "codegen", "f16"),
    ("350M", "codegen", "int8"),
    ("350M", "codegen", "int4"),
    ("350M", "llamacpp", "f16"),
    ("350M", "llamacpp", "Q8_0"),
    ("350M", "llamacpp", "Q4_0"),
    ("350M", "openvino", "int8"),
    ("2B", "codegen", "int4"),
)
BASELINE_MODELS = (("350M", "baseline", "int8"), ("350M", "baseline", "int4"))
MAKE_CHECKPOINT = places.HERE.parent / "make_checkpoint.py"


def models() -> tuple[tuple[str, str, str], ...]:
    """Return the size, engine and format of all files, in the order in which they are made."""
    return MODELS + BASELINE_MODELS * places.BASELINE.exists()


def prepare() -> None:
    """Make the checkpoints and convert them; codegen's files anew, with the code as it is now."""
    for size, engine, format in models():
        checkpoint, target = places.checkpoint(size), places.model(size, engine, format)
        if not (checkpoint / "model.safetensors").exists():
            print(f"making {checkpoint}", flush=True)
            run(sys.executable, str(MAKE_CHECKPOINT), size, str(checkpoint))
        if engine in ("codegen", "baseline") or not target.exists():
            print(f"converting {size} for {engine}: {format}", flush=True)
            convert(size, engine, format, target)


def convert(size: str, engine: str, format: str, target: Path) -> None:
    """Write one engine's file or directory: beside its place first, then renamed."""
    part = target.with_name(f"part-{target.name}")
    if part.is_dir():
        shutil.rmtree(part)
    checkpoint, python = str(places.checkpoint(size)), places.python(engine)
    match engine, format:
        case "codegen", _:
            run(*quantize_command(size, format, part))
        case "baseline", _:
            run(*quantize_command(size, format, part), **places.surroundings(engine))
        case "llamacpp", "f16":
            run(python, str(places.HERE / "convert_gguf.py"), checkpoint, str(part))
        case "llamacpp", _:
            source = places.model(size, "llamacpp", "f16")
            run(python, str(places.HERE / "quantize_gguf.py"), str(source), str(part), format)
        case _:
            run(python, str(places.HERE / "convert_openvino.py"), checkpoint, str(part))
    part.rename(target)


def quantize_command(size: str, format: str, target: Path) -> list[str]:
    """The command line by which a user packs a checkpoint."""
    codegen = Path(sys.executable).with_name("codegen")
    command = [str(codegen), "quantize", str(places.checkpoint(size))]
    return [*command, "--format", format, "--output", str(target), "--quiet"]


def run(*command: str, **surroundings: Any) -> None:
    """Run a command; end with what it said if it failed. surroundings: subprocess.run's cwd, env"""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **surroundings)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-4000:]}")
