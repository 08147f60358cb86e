"""The original as transformers makes it: without weights, or whole in float32.

Nothing of our tracing, wrappers or weight loading takes part, so that an error there can't be on both sides.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.errors import EdgellmError, one_line
from edgellm_core.verification.errors import ReferenceLoadError, ReferenceRunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.subject import Subject

ELEMENT_TYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision → name of its type in torch."""

ONE_THREAD_PARAMETERS: Final = 500_000_000
"""Below so many parameters one thread runs the original: in steps of one token the threads of torch mostly wait for
each other. On two busy cores SmolLM2-135M took 96 s of wall and 43 s of CPU on two threads, 10 s and 6 s on one."""


def load_reference(subject: Subject) -> PreTrainedModel:
    """Load an original that is not quantized, whole, with ``from_pretrained``; its weights are not rounded.

    Raises:
        ReferenceLoadError: transformers refuses, or a weight is missing or has another shape.
    """
    config = copy.deepcopy(subject.config)
    model = _from_pretrained(subject, config, state_dict=stored_slices(subject.tensors))
    model.eval()
    _say_why_it_stops(model, subject.directory)
    return model


def _say_why_it_stops(model: PreTrainedModel, directory: Path) -> None:
    """Make whatever the forward of the original raises an error that says that the original itself can't run."""
    forward = model.forward

    @functools.wraps(forward)
    def guarded(*arguments: Any, **named: Any) -> Any:
        try:
            return forward(*arguments, **named)
        except EdgellmError:
            raise
        except Exception as error:  # a model can raise any class
            raise ReferenceRunError(directory, error) from error

    model.forward = guarded


def stored_slices(tensors: TensorIndex) -> dict[str, Any]:
    """Return what transformers itself gathers of a checkpoint's files: every tensor, read when it is indexed.

    ``from_pretrained`` of the folder would ask more of it than of the weights: an index with ``metadata``, for example.
    """
    from safetensors import safe_open

    files = dict.fromkeys(entry.file for entry in tensors.values())
    readers: list[Any] = [safe_open(file, framework="pt") for file in files]
    return {name: reader.get_slice(name) for reader in readers for name in reader.keys()}  # noqa: SIM118  # no mapping


def _from_pretrained(subject: Subject, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """Let transformers load all weights of a model in float32.

    Raises:
        ReferenceLoadError: it refuses, or a weight is missing or has another shape.
    """
    import torch

    from edgellm_core.tracing.weightless import causal_lm_class

    try:
        with quiet_transformers():
            loaded: Any = causal_lm_class(subject.config).from_pretrained(
                None,
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",  # tracing takes over sdpa's place; eager is never touched
                output_loading_info=True,
                **options,
            )
    except EdgellmError:
        raise
    except Exception as error:  # the constructor of a model can raise any class
        raise ReferenceLoadError(subject.directory, f"{type(error).__name__}: {one_line(error)}") from error
    model, info = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, info[kind]))
        if names:
            raise ReferenceLoadError(subject.directory, f"{kind.replace('_keys', '')} weights {', '.join(names[:3])}")
    return model  # type: ignore[no-any-return]  # from_pretrained returns a tuple that transformers leaves untyped


def empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a config as transformers itself makes it, on the meta device."""
    import torch

    from edgellm_core.tracing.weightless import causal_lm_class

    model_class: Any = causal_lm_class(config)
    with torch.device("meta"), torch.no_grad():
        return model_class._from_config(  # type: ignore[no-any-return]  # noqa: SLF001  # as AutoModel
            copy.deepcopy(config),
            dtype=dtype,
            attn_implementation="eager",  # tracing takes over sdpa's place; eager is never touched
        )


def kept_wide(twin: PreTrainedModel, dtype: torch.dtype) -> set[str]:
    """Return the parameters of another type in a model of ``dtype``: Ernie 4.5's routers, decay rates of delta nets."""
    return {name for name, parameter in twin.named_parameters() if parameter.dtype != dtype}


def round_buffers(model: PreTrainedModel, twin: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round the buffers that transformers itself makes in ``dtype`` where the model is of that type, like ``twin``."""
    narrow = {name for name, buffer in twin.named_buffers() if buffer.dtype == dtype}
    for name, buffer in model.named_buffers():
        if name in narrow:
            buffer.copy_(buffer.to(dtype))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep progress bars and the report of unexpected weights (accounted for by the binder) off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def suitable_threads(model: PreTrainedModel) -> Iterator[None]:
    """Run a small model on one thread in the body."""
    import torch

    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ReferenceRunner:
    """Runs the original step by step over transformers' own cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        from edgellm_core.tracing.probe import cache_argument

        self._model = model
        self._cache: Any = None
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._cache_name = cache_argument(model)

    def start(self) -> None:
        """Forget the cache."""
        self._cache = None

    def run(self, inputs: StepInputs) -> Logits:
        """Run one step; return float32 logits [batch, seq, vocab]."""
        import torch

        arguments: dict[str, Any] = {"position_ids": inputs.position_ids} if self._takes_positions else {}
        whole = self._cache_name == "past_key_values"
        mask = inputs.attention_mask if whole else inputs.attention_mask[:, -inputs.input_ids.shape[1] :]
        arguments |= {"input_ids": inputs.input_ids, "attention_mask": mask}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arguments.items()}
        with torch.inference_mode():
            output = self._model(**tensors, **{self._cache_name: self._cache}, use_cache=True)
        self._cache = getattr(output, self._cache_name)
        logits: Logits = output.logits.float().numpy()
        return logits
