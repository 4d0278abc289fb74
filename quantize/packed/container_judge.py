"""A packed file as we read it -> a UserError unless the safetensors library reads the same in it.

The file is a safetensors container for all the world, and our reader is our own. The library is a
judge that knows nothing of it; it reads the header, and of the data nothing.
"""

from safetensors import SafetensorError, safe_open

from quantize.description.formats import LINE_BYTES, round_up
from quantize.files.errors import UserError
from quantize.packed.packed_file import PackedFile
from quantize.packed.packed_header import HINT_DAMAGED, TOKENIZER, refuse


def require_safetensors(packed: PackedFile) -> None:
    """Compare the tensors, by name, dtype and shape in the order of their data, with the library's.

    As neither allows holes, the same order and sizes are the same offsets. Raises UserError for a
    difference, or a file that the library cannot read, and OSError as opening a file does.
    """
    sizes = {TOKENIZER: round_up(len(packed.tokenizer_json), LINE_BYTES)}
    sizes |= {name: tensor.payload.size for name, tensor in packed.tensors.items()}
    need = [(name, "U8", [size]) for name, size in sizes.items()]
    try:
        with safe_open(packed.path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            found = [(name, each.get_dtype(), each.get_shape()) for name, each in slices.items()]
    except SafetensorError as error:
        raise UserError(
            f"the safetensors library cannot read {packed.path}: {error}", HINT_DAMAGED
        ) from error
    for theirs, ours in zip(found, need, strict=False):
        if theirs != ours:
            refuse(packed.path, "tensor as the safetensors library reads it", theirs, ours)
    if len(found) != len(need):
        refuse(packed.path, "tensors as the safetensors library reads it", len(found), len(need))
