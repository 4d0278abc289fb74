"""Every example of docs/api.md runs, in its order and in one namespace."""

import re
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
EXAMPLES = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("compiled_kernels")
def test_the_examples_run_and_print_on_stdout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small_config()
    write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=1))
    monkeypatch.chdir(tmp_path)
    examples = EXAMPLES.findall(PAGE.read_text("utf-8"))
    assert len(examples) == 12
    namespace: dict[str, object] = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), namespace)
        printed = capfd.readouterr()
        assert printed.out or "assert" in example
        assert printed.err == ""
