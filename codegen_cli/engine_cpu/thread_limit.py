"""A model's shape and format -> the most threads that find work between two barriers."""

from dataclasses import replace

from codegen_cli.kernels.step_table import PIECE_BYTES
from quantize.description.config import ModelConfig
from quantize.description.formats import MATRIX_FORMATS, MatrixFormat, bands_of, groups_of
from quantize.description.tensor_map import tensor_specs


def most_threads(config: ModelConfig, format: MatrixFormat) -> int:
    """Return in how many pieces the widest matrix of a layer is taken.

    A thread more would have no weights to read in any layer, and all others would wait for it at
    four barriers in each.
    """
    group_bytes = MATRIX_FORMATS[format].group_bytes
    matrices = [
        spec.shape
        for spec in tensor_specs(replace(config, n_layer=1))
        if spec.kind == "matrix" and spec.name.startswith("h.")
    ]
    return max(
        _n_pieces(bands_of(n_out), groups_of(n_in) * group_bytes) for n_out, n_in in matrices
    )


def _n_pieces(n_bands: int, band_bytes: int) -> int:
    """Return the most pieces in which kernels.step takes a matrix."""
    in_piece = max(1, PIECE_BYTES // band_bytes)
    return -(-n_bands // in_piece)
