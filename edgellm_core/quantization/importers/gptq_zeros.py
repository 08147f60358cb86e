"""The zero points of GPTQ checkpoints, where label and numbers may disagree.

``sym: true`` says that every zero point is 8. What is stored then tells the format, whatever the label says: 7
everywhere is ``gptq`` (less one), 8 everywhere is ``gptq_v2``; kernels such as Marlin don't even read it. Anything else
contradicts ``sym``. Without it only the label tells, and numbers that would make every zero point of a checkpoint 7, or
9, are refused: they are a symmetric checkpoint under the other label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.quantization.importers.four_bits import LARGEST, MIDDLE, unpack_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgellm_core.quantization.importers.source import ForeignCheckpoint

OFFSETS: Final = {"gptq": 1, "gptq_v2": 0}
"""Format → what has to be added to a stored zero point."""


class ZeroPoints:
    """Zero points of a checkpoint's layers."""

    def __init__(self, source: ForeignCheckpoint, label: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Find out how zero points are stored.

        Args:
            source: the checkpoint.
            label: the format that it calls itself.
            settings: settings of each layer by the path of its module.

        Raises:
            ContradictoryQuantizationError: label, ``sym`` and numbers exclude each other.
            QuantizedTensorMismatchError: zero points are missing.
        """
        self._source, self._label = source, label
        self._symmetric = {m: source.flag(s, "sym", default=True) for m, s in settings.items()}
        self._single = {module: self._only_number(module) for module in settings}
        self._stored = self._stored_format()

    def notes(self) -> tuple[str, ...]:
        """Return the sentence about a label that does not fit."""
        if self._stored == self._label:
            return ()
        middle = int(MIDDLE) - OFFSETS[self._stored]
        sentence = f"The checkpoint calls itself {self._label}, but stores the zero points of its symmetric layers as "
        return (f"{sentence}{self._stored} does ({middle} for 8); they are read as 8.",)

    def of(self, module: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the zero point of each group ``[out, n]``.

        Args:
            module: path of the layer.
            shape: ``(n, out)``.

        Raises:
            UnsupportedQuantizationError: four bits don't hold one.
            QuantizedTensorMismatchError: they are malformed.
        """
        self._source.require_shape(self._source.require(f"{module}.qzeros", ("I32",), 2), (shape[0], shape[1] // 8))
        zeros = self._read(module) + np.uint8(OFFSETS[self._stored])
        if zeros.max(initial=0) > LARGEST:
            self._source.refuse(f"the zero point {zeros.max()} of {module!r}, which four bits don't hold")
        return np.ascontiguousarray(zeros.T)

    def _read(self, module: str) -> NDArray[np.uint8]:
        return unpack_columns(self._source.read(self._source.require(f"{module}.qzeros", ("I32",), 2).name))

    def _only_number(self, module: str) -> int | None:
        """Return the number that all stored zero points of a layer are; None where they differ."""
        numbers = np.unique(self._read(module))
        return int(numbers[0]) if len(numbers) == 1 else None

    def _stored_format(self) -> str:
        symmetric = [module for module, flag in self._symmetric.items() if flag]
        middles = {int(MIDDLE) - offset: name for name, offset in OFFSETS.items()}
        for module in symmetric:
            if self._single[module] not in middles:
                self._source.contradict(
                    f"sym is true, which makes every zero point 8 (stored as 7 by gptq, as 8 by gptq_v2), and those of "
                    f"{module!r} are stored as {np.unique(self._read(module)).tolist()}"
                )
        found = {middles[number] for m in symmetric if (number := self._single[m]) is not None}
        if len(found) > 1:
            self._source.contradict("sym is true, and zero points of 8 are stored as 7 in some layers and 8 in others")
        asymmetric = {self._single[module] for module, flag in self._symmetric.items() if not flag}
        if found and asymmetric and self._label not in found:
            self._source.contradict(f"its label is {self._label!r}, and its symmetric layers are stored otherwise")
        self._refuse_one_step_beside(asymmetric)
        return next(iter(found), self._label)

    def _refuse_one_step_beside(self, stored: set[int | None]) -> None:
        """Refuse layers without ``sym`` whose zero points all are 8 under the other label only."""
        [other] = (offset for name, offset in OFFSETS.items() if name != self._label)
        if stored == {int(MIDDLE) - other}:
            self._source.contradict(
                f"sym is false and the label is {self._label!r}, so every zero point would be "
                f"{int(MIDDLE) - other + OFFSETS[self._label]}; they are 8 under the other label"
            )
