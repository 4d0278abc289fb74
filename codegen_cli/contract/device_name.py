"""What people call a device -> its kind and which ones of that kind; nothing is looked for here.

cpu            the Numba engine
auto           a GPU that PyTorch can use and that the model fits, else cpu
cuda, cuda:1   NVIDIA, and AMD by ROCm, which PyTorch calls by the same name
cuda:0,cuda:1  several, in whose memory the layers lie one after another
mps            Apple
xpu            Intel
torch:cpu      what a GPU would compute, by PyTorch on the CPU: to compare
"""

import re
from typing import NamedTuple

from quantize.files.errors import UserError

CPU = "cpu"
AUTO = "auto"
TORCH_CPU = "torch:cpu"

KINDS = (CPU, AUTO, "cuda", "mps", "xpu", TORCH_CPU)
_NUMBERED = re.compile(r"(cuda|xpu)(?::([0-9]{1,4}))?")
_HINT = (
    f"A device is one of {', '.join(KINDS)}; a GPU may have a number (cuda:1), and several be "
    "named (cuda:0,cuda:1)."
)


class DeviceName(NamedTuple):
    """A device by name.

    kind     one of those above
    numbers  which of that kind, in the order in which layers lie on them; (): the first
    """

    kind: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ",".join(f"{self.kind}:{number}" for number in self.numbers) or self.kind

    @property
    def needs_torch(self) -> bool:
        """Whether PyTorch computes there."""
        return self.kind not in (CPU, AUTO)


def parse_device(text: str) -> DeviceName:
    """Return the device that a text names; raises UserError where it names none."""
    if text in KINDS:
        return DeviceName(text)
    found = [_NUMBERED.fullmatch(name) for name in text.split(",")]
    names = [match for match in found if match]
    if len(names) < len(found):
        raise UserError(f"unknown device {text!r:.80}", _HINT)
    kinds = {match[1] for match in names}
    numbers = tuple(int(match[2] or 0) for match in names)
    if len(kinds) > 1 or len(set(numbers)) < len(numbers):
        raise UserError(
            f"device {text!r:.80} names {'different kinds' if len(kinds) > 1 else 'one twice'}",
            _HINT,
        )
    return DeviceName(kinds.pop(), numbers)
