"""Optimization profiles: the range of every graph input, derived from three limits.

``tensorrt`` chooses kernels while it builds, for the ``opt`` point of each profile, so it gets two: ``prefill`` (many
tokens, empty cache) and ``decode`` (one token, half-full cache). ``tensorrt-rtx`` compiles kernels on the device for
the shapes that it meets (its "dynamic shapes kernel specialization"), so it gets one, ``generation``: a second profile
made the engine of a 30-layer decoder of width 576 larger by 31 % (126 → 165 MB) and its build longer by 78 %
(3.2 → 5.6 s; TensorRT-RTX 1.7.1, SM 120).

In every profile ``past + seq`` may exceed ``max_seq_len``: bounds of a profile are independent, and a long cache must
not forbid a chunk of a prompt. Who runs the engine keeps the sum within ``max_seq_len``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.engine.errors import UnexpectedGraphInputError
from edgellm_core.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_BATCH_SIZE: Final = 1
DEFAULT_INPUT_LEN: Final = 1024
DEFAULT_SEQ_LEN: Final = 4096

Range = tuple[int, int, int]
"""Minimum, optimum and maximum of one dimension."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileLimits:
    """What an engine must be able to take.

    Attributes:
        max_batch_size: sequences at once.
        max_input_len: tokens of one prefill call.
        max_seq_len: tokens of a sequence, cached and new together: the capacity of the KV cache.

    Raises:
        InvalidSettingError: a limit is below its least value, or ``max_input_len`` is above ``max_seq_len``.
    """

    max_batch_size: int = DEFAULT_BATCH_SIZE
    max_input_len: int = DEFAULT_INPUT_LEN
    max_seq_len: int = DEFAULT_SEQ_LEN

    def __post_init__(self) -> None:
        """Refuse limits that no sequence fits."""
        least = (
            ("--max-batch-size", self.max_batch_size, 1),
            ("--max-input-len", self.max_input_len, 1),
            ("--max-seq-len", self.max_seq_len, 2),
        )
        for setting, value, minimum in least:
            if value < minimum:
                raise InvalidSettingError(setting, f"must be at least {minimum}", value, "Raise it.")
        if self.max_input_len > self.max_seq_len:
            raise InvalidSettingError(
                "--max-input-len",
                f"must not exceed --max-seq-len ({self.max_seq_len})",
                self.max_input_len,
                "Lower --max-input-len or raise --max-seq-len.",
            )


def limits_for_context(
    context_length: int | None,
    *,
    max_batch_size: int | None = None,
    max_input_len: int | None = None,
    max_seq_len: int | None = None,
) -> ProfileLimits:
    """Fill in the limits that were not given, within the model's context.

    Args:
        context_length: tokens that the model was made for (``max_position_embeddings``); None if unknown.
        max_batch_size: as in :class:`ProfileLimits`; None for the default.
        max_input_len: likewise.
        max_seq_len: likewise.

    Raises:
        InvalidSettingError: as :class:`ProfileLimits`, or ``max_seq_len`` is above the context.
    """
    if context_length is not None and max_seq_len is not None and max_seq_len > context_length:
        raise InvalidSettingError(
            "--max-seq-len", f"must not exceed the model's context of {context_length} tokens", max_seq_len, "Lower it."
        )
    if max_seq_len is None:
        max_seq_len = max(min(DEFAULT_SEQ_LEN, context_length or DEFAULT_SEQ_LEN), max_input_len or 0)
    return ProfileLimits(
        max_batch_size=DEFAULT_BATCH_SIZE if max_batch_size is None else max_batch_size,
        max_input_len=min(DEFAULT_INPUT_LEN, max_seq_len) if max_input_len is None else max_input_len,
        max_seq_len=max_seq_len,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Ranges of the three dynamic dimensions of the graph.

    Attributes:
        name: ``prefill``, ``decode`` or ``generation`` (both in one).
        batch: sequences at once.
        seq: new tokens of each sequence.
        past: cached tokens of each sequence.
    """

    name: str
    batch: Range
    seq: Range
    past: Range

    @property
    def total(self) -> Range:
        """Cached and new tokens together."""
        low, opt, high = (past + seq for past, seq in zip(self.past, self.seq, strict=True))
        return low, opt, high


def make_profiles(names: Sequence[str], limits: ProfileLimits) -> list[Profile]:
    """Return the named profiles for ``limits``."""
    return [_make_profile(name, limits) for name in names]


def _make_profile(name: str, limits: ProfileLimits) -> Profile:
    prompt = max(limits.max_input_len // 2, 1)
    seq, past = {
        "prefill": ((1, prompt, limits.max_input_len), 0),
        "decode": ((1, 1, 1), limits.max_seq_len // 2),
        "generation": ((1, prompt, limits.max_input_len), (limits.max_seq_len - prompt) // 2),
    }[name]
    return Profile(
        name=name,
        batch=(1, limits.max_batch_size, limits.max_batch_size),
        seq=seq,
        past=(0, min(past, limits.max_seq_len - 1), limits.max_seq_len - 1),
    )


def input_ranges(name: str, shape: Sequence[int], profile: Profile) -> tuple[tuple[int, ...], ...]:
    """Return minimum, optimum and maximum shape of one graph input.

    Args:
        name: an input of target ``onnx`` (design: I/O contract).
        shape: its dimensions in the network; -1 for dynamic ones. A static dimension stays as it is.
        profile: the ranges.

    Raises:
        UnexpectedGraphInputError: the name or a dynamic dimension is not part of the contract.
    """
    ranges: list[Range | None]
    if name in ("input_ids", "position_ids"):
        ranges = [profile.batch, profile.seq]
    elif name == "attention_mask":
        ranges = [profile.batch, profile.total]
    elif name.startswith("past_key_values.") and len(shape) == 4:
        ranges = [profile.batch, None, profile.past, None]
    elif name.startswith("past_key_values.") and len(shape) == 3:  # keys of a sparse attention's indexer
        ranges = [profile.batch, profile.past, None]
    elif name.startswith("past_state."):
        ranges = [profile.batch, *[None] * (len(shape) - 1)]
    else:
        raise UnexpectedGraphInputError(name, tuple(shape))
    sizes: list[Range] = []
    for size, dynamic in zip(shape, ranges, strict=True):
        if size >= 0:
            sizes.append((size, size, size))
        elif dynamic is not None:
            sizes.append(dynamic)
        else:
            raise UnexpectedGraphInputError(name, tuple(shape))
    return tuple(zip(*sizes, strict=True))
