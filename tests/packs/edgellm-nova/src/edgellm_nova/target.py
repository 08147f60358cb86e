"""The nova runtime: standard operators, and a session of the pack's own."""

from __future__ import annotations

from typing import ClassVar

from edgellm_core.targets.onnx import OnnxTarget


class NovaTarget(OnnxTarget):
    """What target ``onnx`` writes, run by the pack's session."""

    name: ClassVar[str] = "nova-rt"
    session: ClassVar[str] = f"{__package__}.session:NovaSession"
