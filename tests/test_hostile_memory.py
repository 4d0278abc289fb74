"""A small file cannot make a reader take much memory, whatever sizes it claims."""

import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import pickled, storage, tensor_call, write_zip
from hostile import TINY, TINY_TOKENIZER, open_header, with_header, write_tiny_packed

from quantize.files.errors import UserError
from quantize.files.input_file import read_input

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

LIMIT_MB = 320
"""Beyond what a process has that imported the readers: the largest file here has 30 MB, which are
mapped; the rest is room for what parsing makes of the limits that each reader has."""


def pickle_of(opcodes: bytes) -> Callable[[Path], object]:
    content = pickle.PROTO + b"\2" + opcodes + pickle.STOP
    return lambda path: write_zip(path, {"data.pkl": content})


def zip_of_many_entries(path: Path) -> None:
    """400,000 entries of 47 bytes in the list; each would become a kilobyte."""
    n_entries = 400_000
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    listed = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[20, *[0] * 8, 1, *[0] * 6]) + b"x"
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, n_entries * len(listed), len(local), 0
    )
    path.write_bytes(local + listed * n_entries + end)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", bytes(400 << 20), zipfile.ZIP_DEFLATED, compresslevel=1)


def repeated_values(path: Path) -> None:
    huge = tensor_call(storage("0", "F16", 12), (1 << 18, 1 << 18), (0, 0))
    write_zip(path, {"data.pkl": pickled({"a": huge}), "data/0": bytes(24)})


def header_of(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text)


def content_of(value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value), encoding="utf-8")


ADDED_TOKEN = TINY_TOKENIZER["added_tokens"][0]  # type: ignore[index]
# 50,000 pieces that all name one list of 100,000 ids.
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 50_000,
    "pair": [],
    "special_tokens": {"a": {"id": "a", "ids": [7] * 100_000, "tokens": ["a"]}},
}
PADDING = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
PADDING |= {"strategy": {"Fixed": 1 << 60}, "pad_to_multiple_of": 1 << 60}

CASES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "dicts": ("read_torch_zip", pickle_of(b"}" * (15 << 20)), "more than 1048576 opcodes"),
    "memos": (
        "read_torch_zip",
        pickle_of(b"}" + pickle.MEMOIZE * (15 << 20)),
        "more than 1048576 opcodes",
    ),
    "marks": ("read_torch_zip", pickle_of(b"(" * (1 << 19)), "holds a value of type object"),
    "a string that claims gigabytes": (
        "read_torch_zip",
        pickle_of(pickle.BINUNICODE8 + (1 << 40).to_bytes(8, "little")),
        "expected 1099511627776 bytes",
    ),
    "many entries": ("read_torch_zip", zip_of_many_entries, "need at most 4194304"),
    "a zip bomb": ("read_torch_zip", zip_bomb, "is compressed or encrypted"),
    "repeated values": ("read_torch_zip", repeated_values, "within the 12 values"),
    "lists in a header": (
        "read_safetensors",
        header_of(b'{"a":[' + b"[]," * (10 << 20) + b"[]]}"),
        "has more than 524288 values",
    ),
    "objects in a header": (
        "read_safetensors",
        header_of(b'{"a":[' + b"{}," * 250_000 + b"{}]}"),
        "need dtype, shape and data_offsets",
    ),
    "a header that claims gigabytes": (
        "read_safetensors",
        lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}"),
        "is not a safetensors file",
    ),
    "a shape of petabytes": (
        "read_safetensors",
        header_of(b'{"a":{"dtype":"U8","shape":[1125899906842624],"data_offsets":[0,0]}}'),
        "has 0 bytes, need 1125899906842624",
    ),
    "lists in a config": (
        "read_config",
        lambda path: path.write_bytes(b'{"n_embd":[' + b"1," * 250_000 + b"1]}"),
        "model_type",
    ),
    "a number of a million digits": (
        "read_config",
        lambda path: path.write_bytes(b'{"n_embd":1' + b"0" * 1_000_000 + b"}"),
        "is not a valid JSON object",
    ),
    "a config of the largest model": (
        "read_config",
        content_of(TINY | {"n_layer": 99, "n_embd": 16384, "n_head": 4, "n_positions": 1 << 20}),
        "accepted",
    ),
    "a padded tokenizer": (
        "read_tokenizer",
        content_of(TINY_TOKENIZER | {"padding": PADDING}),
        "accepted",
    ),
    "objects in a tokenizer": (
        "read_tokenizer",
        content_of(TINY_TOKENIZER | {"added_tokens": [{}] * 500_000}),
        "has more than 524288 values",
    ),
    "an added token of megabytes": (
        "read_tokenizer",
        content_of(
            TINY_TOKENIZER
            | {"added_tokens": [ADDED_TOKEN, ADDED_TOKEN | {"id": 258, "content": "q" * (4 << 20)}]}
        ),
        "added_tokens have more than 262144 characters",
    ),
    "a template that names a list often": (
        "read_tokenizer",
        content_of(TINY_TOKENIZER | {"post_processor": TEMPLATE}),
        "its template begins with 100000 tokens, need 1 at most",
    ),
    "a sparse file of a terabyte": (
        "read_packed",
        lambda path: _truncated(path, 1 << 40),
        "Cannot allocate memory",
    ),
}


def _truncated(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each reader says of its file, all in one process whose memory is limited."""
    directory = tmp_path_factory.mktemp("memory")
    arguments = []
    for number, (reader, write, _) in enumerate(CASES.values()):
        path = directory / str(number)
        write(path)
        arguments.append(f"{reader}={path}")
    script = Path(__file__).with_name("hostile.py")
    result = subprocess.run(
        [sys.executable, str(script), str(LIMIT_MB), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return dict(zip(CASES, result.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_file_takes_no_more_memory_than_its_size_explains(
    answers: dict[str, str], case: str
) -> None:
    assert CASES[case][2] in answers[case]


def test_reading_allocates_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(bytes(1000))
    tracemalloc.start()
    try:
        assert len(read_input(path, 64 << 20)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    with pytest.raises(UserError, match="is larger than the 999 bytes"):
        read_input(path, 999)


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    ("n_positions", "answer"), [(1 << 20, "needs 2.1 GB of memory"), (1 << 12, "accepted")]
)
def test_positions_that_no_payload_backs_cost_nothing_until_used(
    tmp_path: Path, n_positions: int, answer: str
) -> None:
    """2 GB of keys and values for a file of 3 MB: refused in words where they cannot be had."""
    path = write_tiny_packed(tmp_path / "m", n_embd=512, rotary_dim=128, n_inner=64)
    content = path.read_bytes()
    header = open_header(content)
    metadata = header["__metadata__"]
    assert isinstance(metadata, dict)
    metadata["config"]["n_positions"] = n_positions
    path.write_bytes(with_header(content, header))
    script = (
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import hostile\nfrom hostile_run import complete\n"
        f"hostile.limit_memory({LIMIT_MB} << 20)\n"
        "from pathlib import Path\n"
        "error = hostile.refused(lambda: complete(Path(sys.argv[1])))\n"
        "print(error.message if error else 'accepted')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert answer in result.stdout, result.stderr[-2000:]
