"""Logits on a device -> the log-probabilities of the wanted ids and of the likeliest."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codegen_cli.contract.engine import LogProbabilities


def log_probabilities(
    logits: Tensor, targets: npt.NDArray[np.int64], never: Collection[int]
) -> LogProbabilities:
    """Return ln p of each row's target, the likeliest ids and their ln p.

    logits   [n, vocab_size] f32
    targets  [n] ids
    never    ids that cannot be the likeliest

    Sums are float64 where the device has it: Apple's does not, and gives ln p to 1e-6.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    total = logits.to(wide).logsumexp(-1)  # [n]
    wanted = torch.from_numpy(targets).to(logits.device)
    own = logits.gather(1, wanted[:, None])[:, 0] - total
    if never:
        logits = logits.index_fill(1, torch.tensor(sorted(never), device=logits.device), -torch.inf)
    likeliest, ids = logits.max(-1)
    of_targets, of_likeliest = own.cpu().double().numpy(), (likeliest - total).cpu().double()
    return LogProbabilities(of_targets, ids.cpu().numpy(), of_likeliest.numpy())
