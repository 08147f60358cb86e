"""The hidden states of all samples between two decoder layers: on the GPU where they fit there, else in files.

Two tensors take turns: a layer reads one and writes the other, so the input of a layer that was not finished is intact.
Files need no memory and outlive the process; on a GPU, a resumed run computes the states of finished layers again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    import torch

LARGEST_SHARE: Final = 0.3
"""Share of a GPU's free memory that the states may take; a layer, its batch and Gram matrices need the rest."""


class HiddenStates:
    """Hidden states [samples, length, width] that enter each decoder layer.

    Attributes:
        shape: samples, length and width.
        survive: another process finds them again.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, *, folder: Path | None, device: torch.device
    ) -> None:
        """Map two files, which are created if need be, or take memory.

        Args:
            shape: samples, length and width.
            dtype: element type.
            folder: where the files are; None for memory.
            device: whose memory.
        """
        import torch

        self.shape = shape
        self.survive = folder is not None
        self._paths = [folder / f"hidden-{turn}.bin" for turn in (0, 1)] if folder is not None else []
        if folder is None:
            self._turns = [torch.empty(shape, dtype=dtype, device=device) for _ in (0, 1)]
            return
        folder.mkdir(parents=True, exist_ok=True)
        size = shape[0] * shape[1] * shape[2]
        self._turns = [
            torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape) for path in self._paths
        ]

    def entering(self, layer: int) -> torch.Tensor:
        """Return what enters a layer, and left the one before it; writable."""
        return self._turns[layer % 2]

    def remove(self) -> None:
        """Free the memory or delete the files."""
        self._turns.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)


def hold_states(folder: Path, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> HiddenStates:
    """Return room for hidden states: in the memory of a GPU if they take at most ``LARGEST_SHARE`` of what is free.

    Args:
        folder: where files may be.
        shape: samples, length and width.
        dtype: element type.
        device: where the layers are computed.
    """
    import torch

    needed = 2 * shape[0] * shape[1] * shape[2] * dtype.itemsize
    fits = device.type == "cuda" and needed <= LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]
    return HiddenStates(shape, dtype, folder=None if fits else folder, device=device)
