"""A packed file is a safetensors container to the safetensors library too, an independent judge."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import packed_header, with_header
from packed import write_packed

from codegen_cli.models.verification import verify_file
from quantize.files.errors import UserError
from quantize.packed.container_judge import require_safetensors
from quantize.packed.packed_file import read_packed_file

FORMAT_DOCS = Path(__file__).parent.parent / "docs" / "format.md"


@pytest.mark.parametrize("format", ["int8", "int4", "f16"])
@pytest.mark.parametrize("name", ["tiny", "caf\udce9"], ids=["text", "no text"])
def test_the_library_reads_what_we_read(tmp_path: Path, format: str, name: str) -> None:
    path = write_packed(tmp_path / f"{name}.safetensors", format, name=name)
    require_safetensors(read_packed_file(path))
    assert verify_file(path).is_sound


def test_the_example_of_the_docs_names_every_payload(tmp_path: Path) -> None:
    packed = read_packed_file(write_packed(tmp_path / "mine.safetensors"))
    [example] = re.findall(r"^```python\n(.*?)^```$", FORMAT_DOCS.read_text(), re.DOTALL | re.M)
    ran = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True)
    assert ran.stderr == b""
    sizes = {name: tensor.payload.size for name, tensor in packed.tensors.items()}
    assert json.loads(ran.stdout.replace(b"'", b'"')) == {"tokenizer.json": 64} | sizes


def test_a_header_that_only_we_can_read_is_told_by_verify(tmp_path: Path) -> None:
    """Python takes lone surrogates in JSON, as files had that older releases packed so."""
    path = write_packed(tmp_path / "x.safetensors")
    header = json.loads(packed_header(path.read_bytes()))
    header["__metadata__"]["model_name"] = "caf\udce9"
    path.write_bytes(with_header(path.read_bytes(), header))
    assert read_packed_file(path).name == "caf\udce9"
    result = verify_file(path)
    assert not result.is_sound
    assert result.problem.startswith(f"the safetensors library cannot read {path}: ")


@pytest.mark.parametrize("change", ["another order", "another size", "one more", "one less"])
def test_a_tensor_that_the_library_sees_otherwise_is_named(tmp_path: Path, change: str) -> None:
    packed = read_packed_file(write_packed(tmp_path / "x.safetensors"))
    tensors = dict(packed.tensors)
    name, last = list(tensors.items())[-1]
    if change == "another order":
        tensors = dict(reversed(tensors.items()))
    elif change == "another size":
        tensors[name] = replace(last, payload=last.payload[:-64])
    elif change == "one more":
        tensors["more"] = last
    else:
        del tensors[name]
    with pytest.raises(UserError, match=r"x\.safetensors: .*as the safetensors library reads it"):
        require_safetensors(replace(packed, tensors=tensors))
