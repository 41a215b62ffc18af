"""What goes to a GPU and what comes back: the first without a wait for it, the second with one."""

import numpy as np
import torch
from torch import Tensor


def up(given: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Have a device read an array of the host when its turn comes: from pinned memory, or the host would wait."""
    found = torch.as_tensor(given)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


def down(made: Tensor) -> np.ndarray:
    """Wait for a device to have made an array, and return it."""
    return made.cpu().numpy()
