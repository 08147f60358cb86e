"""The hidden states of all samples between two decoder layers, in files: constant memory, and killed runs resume.

Two files take turns: a layer reads one and writes the other, so the input of a layer that was not finished is intact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch


class HiddenStates:
    """Hidden states [samples, length, width] that enter each decoder layer.

    Attributes:
        shape: samples, length and width.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        """Map the two files, which are created if need be."""
        import torch

        folder.mkdir(parents=True, exist_ok=True)
        self.shape = shape
        self._folder = folder
        size = shape[0] * shape[1] * shape[2]
        self._files = [
            torch.from_file(str(folder / f"hidden-{turn}.bin"), shared=True, size=size, dtype=dtype).view(shape)
            for turn in (0, 1)
        ]

    def entering(self, layer: int) -> torch.Tensor:
        """Return what enters a layer, and left the one before it; writable."""
        return self._files[layer % 2]

    def remove(self) -> None:
        """Delete the files."""
        self._files.clear()
        for turn in (0, 1):
            (self._folder / f"hidden-{turn}.bin").unlink(missing_ok=True)
