"""The table of formats: what all rooms read there fits together, and costs no import."""

import subprocess
import sys

import pytest

from codegen_cli.models import registry
from quantize.description.formats import (
    BAND,
    GROUP,
    LINE_BYTES,
    MATRIX_FORMATS,
    bands_of,
    groups_of,
)
from quantize.packed.layout import codes_view, new_payload, scales_view


def test_no_two_formats_have_one_number():
    assert sorted(stored.number for stored in MATRIX_FORMATS.values()) == [0, 1, 2]


def test_rows_of_the_ends_can_be_looked_up():
    assert all(MATRIX_FORMATS[stored.ends].can_embed for stored in MATRIX_FORMATS.values())


@pytest.mark.parametrize("format", MATRIX_FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (48, 96), (50, 100)])
def test_a_payload_is_its_groups_of_bands_and_less_than_a_line(format, shape):
    stored, payload = MATRIX_FORMATS[format], new_payload(format, shape)
    n_groups = bands_of(shape[0]) * groups_of(shape[1])
    n_codes = codes_view(format, shape, payload).nbytes
    assert n_codes == n_groups * stored.group_bytes
    n_scales = scales_view(format, shape, payload).nbytes if stored.has_scales else 0
    assert n_scales == n_groups * stored.scales_bytes
    assert 0 <= len(payload) - n_codes - n_scales < LINE_BYTES


def test_bands_and_groups_hold_every_row_and_column():
    assert [bands_of(n) for n in (1, BAND, BAND + 1)] == [1, 1, 2]
    assert [groups_of(n) for n in (1, GROUP, GROUP + 1)] == [1, 1, 2]


def test_the_smallest_format_is_preferred():
    assert registry.FORMATS == ("int4", "int8", "f16")


def test_the_table_brings_neither_numpy_nor_numba():
    script = (
        "import sys\n"
        "import quantize.description.formats\n"
        "print({'numpy', 'numba', 'llvmlite'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("set()\n", "")
