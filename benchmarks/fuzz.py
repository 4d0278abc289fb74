"""Coverage-guided fuzzing of every reader of a stranger's file; longer than the tests can take.

python benchmarks/fuzz.py [TARGET...] [--minutes 5] [--keep DIRECTORY]

Needs `pip install '.[fuzz]'` (atheris, Linux). Each target runs in a process of its own, which may
take 1 GB more memory than it begins with and 10 s for an input. It passes while the reader only
reads or raises UserError; anything else, a segmentation fault included, is a finding: the input is
kept in --keep (fuzz-findings) and shown again by

python benchmarks/fuzz.py TARGET --input FILE

    pickle         the opcodes of a state dict
    torch_zip      a zip as torch.save writes it, and one with a mutated pickle inside
    safetensors    header and data, with the length made true or not
    index          model.safetensors.index.json beside two true shards
    config         config.json
    tokenizer      tokenizer.json, judged, loaded, and used on some text
    old_tokenizer  vocab.json, merges.txt and the three files beside them
    packed         a packed file, raw or with an edited header whose hash is true again
    run            the same, and what is accepted computes a completion
"""

import argparse
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("benchmarks/fuzz.py needs atheris: pip install '.[fuzz]'")

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
INSTRUMENTED = ["quantize", "codegen_cli.text.tokenizer_file", "zipfile", "pickletools", "json"]
for module in ("zipfile", "pickletools", "json", "json.decoder", "json.scanner"):
    sys.modules.pop(module, None)
with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
    import pickletools

    import hostile
    from checkpoints import pickled, storage, tensor_call

NAMES = "pickle torch_zip safetensors index config tokenizer old_tokenizer packed run".split()
MEMORY_BYTES = 1 << 30
SECONDS_PER_INPUT = 10
EDITED = ("index", "config", "tokenizer", "packed", "run")
Target = Callable[[bytes], object]


def edited(value: dict[str, object], data: bytes) -> dict[str, object]:
    """Some JSON after the edits that the bytes stand for, three to five bytes each."""
    stream = io.BytesIO(data)
    while len(step := stream.read(3)) == 3:
        where, kind = struct.unpack("<HB", step)
        places = hostile.places(value)[1:]
        if not places:
            break
        place = places[where % len(places)]
        news = (*hostile.NASTY, hostile.DELETED)
        new = news[kind % len(news)] if kind < 200 else int.from_bytes(stream.read(2), "little")
        value = hostile.replaced(value, place, new)
    return value


def raw_or_edited(value: object, data: bytes) -> bytes:
    """A first byte below 128: JSON with edits; else the rest as it is."""
    if data[:1] < b"\x80":
        return json.dumps(edited(value, data[1:])).encode("utf-8", "surrogatepass")
    return data[1:]


def in_file(path: Path, read: Callable[[Path], object]) -> Target:
    def target(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return target


def torch_zip_target(directory: Path) -> Target:
    path = directory / "pytorch_model.bin"

    def target(data: bytes) -> None:
        if data[:1] < b"\x80":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("m/data.pkl", data[1:])
                archive.writestr("m/data/0", bytes(range(48)))
        else:
            path.write_bytes(data[1:])
        hostile.read_torch_zip(path)

    return target


def safetensors_target(directory: Path) -> Target:
    path = directory / "model.safetensors"

    def target(data: bytes) -> None:
        rest = data[1:]
        path.write_bytes(
            len(rest).to_bytes(8, "little") + rest + bytes(48) if data[:1] < b"\x80" else rest
        )
        hostile.read_safetensors(path)

    return target


def index_target(directory: Path) -> Target:
    hostile.write_tiny_checkpoint(directory, "safetensors-sharded")
    (index,) = directory.glob("*.index.json")
    fields = json.loads(index.read_text("utf-8"))

    def target(data: bytes) -> None:
        index.write_bytes(raw_or_edited(fields, data))
        hostile.read_checkpoint(directory)

    return target


def old_tokenizer_target(directory: Path) -> Target:
    """The first byte chooses the file that is changed, and whether one of them is absent."""
    directory /= "old"
    directory.mkdir()

    def target(data: bytes) -> None:
        files = dict(hostile.OLD_TOKENIZER)
        name = [*files][(data or b"\0")[0] % len(files)]
        hostile.write_old_tokenizer(directory, files)
        changed = data[1:] if name == "merges.txt" else raw_or_edited(files[name], data[1:])
        (directory / name).write_bytes(changed)
        if data[:1] >= b"\x80" and name != "tokenizer_config.json":
            (directory / "tokenizer_config.json").unlink()
        hostile.read_old_tokenizer(directory)

    return target


def packed_target(directory: Path, read: Callable[[Path], object]) -> Target:
    contents = [
        hostile.write_tiny_packed(directory / format, format).read_bytes()
        for format in ("int8", "int4", "f16")
    ]
    headers = [hostile.open_header(content) for content in contents]
    path = directory / "packed"

    def target(data: bytes) -> None:
        kind = (data or b"\0")[0]
        content, header = contents[kind % 3], headers[kind % 3]
        if kind < 0x80:
            header = edited(header, data[1:])
            content = hostile.with_header(content, header)
        elif kind < 0xC0:
            # A header that is not what json.dumps writes.
            text = data[1:] + b" " * (-(8 + len(data[1:])) % 64)
            start = 8 + len(hostile.packed_header(content))
            content = len(text).to_bytes(8, "little") + text + content[start:]
        else:
            content = flipped(content, data[1:])
        path.write_bytes(content)
        read(path)

    return target


def flipped(content: bytes, data: bytes) -> bytes:
    """The content with bytes set, each by three bytes of data."""
    changed = bytearray(content)
    for place, value in struct.iter_unpack("<HB", data[: len(data) // 3 * 3]):
        changed[place % len(changed)] = value
    return bytes(changed)


def completer() -> Callable[[Path], object]:
    """What completes a short prompt with a packed file, on kernels compiled beforehand."""
    import hostile_run

    return hostile_run.complete


def targets(name: str, directory: Path) -> Target:
    makers: dict[str, Callable[[], Target]] = {
        "pickle": lambda: hostile.read_pickle,
        "torch_zip": lambda: torch_zip_target(directory),
        "safetensors": lambda: safetensors_target(directory),
        "index": lambda: index_target(directory),
        "config": lambda: lambda data: hostile.read_config(raw_or_edited(hostile.TINY, data)),
        "tokenizer": lambda: (
            lambda data: hostile.read_tokenizer(raw_or_edited(hostile.TINY_TOKENIZER, data))
        ),
        "old_tokenizer": lambda: old_tokenizer_target(directory),
        "packed": lambda: packed_target(directory, hostile.read_packed),
        "run": lambda: packed_target(directory, completer()),
    }
    return makers[name]()


def write_seeds(name: str, corpus: Path, directory: Path) -> None:
    """Inputs to begin with: true files, and every edit of one field for what is edited."""
    raw = b"\xff"
    torch = hostile.write_tiny_checkpoint(directory / "torch", "torch") / "pytorch_model.bin"
    with zipfile.ZipFile(torch) as archive:
        whole_pickle = archive.read("pytorch_model/data.pkl")
    numbers = storage("0", "F16", 24)
    pickle = pickled(
        {"a": tensor_call(numbers, (3, 4), (4, 1), 5), "b": tensor_call(numbers, (24,), (1,))}
    )
    whole = hostile.write_tiny_checkpoint(directory / "whole") / "model.safetensors"
    sharded = hostile.write_tiny_checkpoint(directory / "sharded", "safetensors-sharded")
    (index,) = sharded.glob("*.index.json")
    packed = hostile.write_tiny_packed(directory / "seed").read_bytes()
    header = hostile.packed_header(whole.read_bytes())
    seeds = {
        "pickle": [whole_pickle, pickle, pickletools.optimize(b"\x80\x04" + pickle[2:])],
        "torch_zip": [raw + torch.read_bytes(), b"\0" + pickle, b"\0" + whole_pickle],
        "safetensors": [raw + whole.read_bytes(), b"\0" + header],
        "index": [raw + index.read_bytes(), b"\0"],
        "config": [raw + json.dumps(hostile.TINY).encode(), b"\0"],
        "tokenizer": [raw + json.dumps(hostile.TINY_TOKENIZER).encode(), b"\0"],
        "old_tokenizer": [
            *(bytes([kind, 0]) for kind in range(5)),
            b"\1#version: 0.2\na b\nab a\n",
        ],
        "packed": [b"\x80" + hostile.packed_header(packed), b"\0", b"\1", b"\2", raw],
    }
    for number, seed in enumerate(seeds.get(name, seeds["packed"])):
        (corpus / f"seed{number}").write_bytes(seed)
    if name in EDITED:
        for place in range(0, 400, 3):
            for kind in range(0, len(hostile.NASTY) + 1, 5):
                seed = b"\0" + struct.pack("<HB", place, (kind + place) % (len(hostile.NASTY) + 1))
                (corpus / f"edit{place}-{kind}").write_bytes(seed)


def fuzz_here(name: str, seconds: int, keep: Path) -> None:
    """Fuzz one target in this process, which ends with it."""
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as scratch:
        directory, corpus = Path(scratch) / "files", Path(scratch) / "corpus"
        directory.mkdir()
        corpus.mkdir()
        write_seeds(name, corpus, directory)
        target = targets(name, directory)
        hostile.limit_memory(MEMORY_BYTES)

        accepted = 0

        def judged(data: bytes) -> None:
            nonlocal accepted
            if hostile.refused(lambda: target(data)) is None:
                accepted += 1
                if accepted % 10 == 0:
                    print(f"accepted: {accepted}", file=sys.stderr)

        options = [
            f"-max_total_time={seconds}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-artifact_prefix={keep}/{name}-",
            "-rss_limit_mb=3000",
            "-max_len=16384",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], judged)
        atheris.Fuzz()


def fuzz(name: str, minutes: float, keep: Path) -> bool:
    """Fuzz one target in a process of its own and print a line; return whether it passed.

    The line counts what was accepted in tens: a target that refuses all tests little.
    """
    command = [sys.executable, __file__, name, "--minutes", str(minutes), "--keep", str(keep)]
    result = subprocess.run([*command, "--here"], capture_output=True, text=True, check=False)
    executions = re.search(r"number_of_executed_units: (\d+)", result.stderr)
    coverage = re.findall(r"cov: (\d+)", result.stderr)
    accepted = re.findall(r"accepted: (\d+)", result.stderr)
    passed = result.returncode == 0
    print(
        f"{name:14} {int(executions[1]) if executions else 0:>12,} executions  "
        f"{int(accepted[-1]) if accepted else 0:>10,} or more accepted  "
        f"{minutes:g} min  coverage {coverage[-1] if coverage else '?':>5}  "
        f"{'passed' if passed else f'FAILED, exit code {result.returncode}'}",
        flush=True,
    )
    if not passed:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("INFO")]
        print(*(line[:300] for line in lines[:60]), sep="\n", file=sys.stderr)
    return passed


def show_again(name: str, file: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        error = hostile.refused(lambda: targets(name, Path(scratch))(file.read_bytes()))
    print(error.message if error else "accepted")


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--input", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(unknown)}")
    if options.input:
        show_again(options.targets[0], options.input)
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.here:
        fuzz_here(options.targets[0], int(options.minutes * 60), options.keep)
        return
    results = [fuzz(name, options.minutes, options.keep) for name in options.targets or NAMES]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
