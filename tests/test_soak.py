"""benchmarks/soak.py with few kills: a download and a packing that were killed end as if not."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"
QUICK = ("--shape", "tiny", "--format", "int8", "--drip-seconds", "0.6")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_kill_is_survived() -> None:
    ran = subprocess.run(
        [sys.executable, SOAK, "--kills", "3", *QUICK], capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("survived 3/3\n")
