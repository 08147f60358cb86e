"""What of a model's rules for generation the runtime of TensorRT-Edge-LLM does not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.bundle import RuntimeRecord


def runtime_notes(runtime: RuntimeRecord) -> Sequence[str]:
    """Return a sentence for each thing that it leaves out.

    Source: TensorRT-Edge-LLM 0.11, ``cpp/runtime``: a request brings temperature, top-k and top-p; generation settings
    of the checkpoint are not read but for ``eos_token_id``, and cached keys are kept at every length.
    """
    notes = []
    if runtime.settings:
        names = ", ".join(f"{name} = {value!r}" for name, value in runtime.settings.items())
        notes.append(f"TensorRT-Edge-LLM does not apply {names} of the checkpoint; edgellm run does.")
    if runtime.reread_at is not None:
        notes.append(
            f"TensorRT-Edge-LLM does not read a text again where it reaches {runtime.reread_at} tokens: its answers "
            "differ from the original's from there on."
        )
    return notes
