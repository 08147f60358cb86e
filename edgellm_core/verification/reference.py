"""The original: transformers' own model in float32.

transformers reads its weights itself; those of quantized layers are dequantized from their definition before.
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
from edgellm_core.verification.cases import Recording, Step, decode_inputs, prefill_inputs
from edgellm_core.verification.errors import ReferenceLoadError, ReferenceNotFiniteError, ReferenceRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.verification.cases import Case, Logits, StepInputs
    from edgellm_core.verification.subject import Subject
    from edgellm_core.verification.synchronized import Synchronizer


ELEMENT_TYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision → name of its type in torch."""

ONE_THREAD_PARAMETERS: Final = 500_000_000
"""Below so many parameters one thread runs the original: in steps of one token the threads of torch mostly wait for
each other. On two busy cores SmolLM2-135M took 96 s of wall and 43 s of CPU on two threads, 10 s and 6 s on one."""


def load_reference(subject: Subject, synchronizer: Synchronizer | None = None) -> PreTrainedModel:
    """Load the original with ``from_pretrained``; where the graph runs raised, its values are rounded to its type.

    They stay in float32.

    transformers reads a quantized checkpoint as dequantized weights, one at a time; its inputs, keys and values are
    rounded as the checkpoint says.

    Args:
        subject: what is compared.
        synchronizer: sees, and may replace, every number that a quantized checkpoint rounds.

    Raises:
        ReferenceLoadError: transformers refuses, or a weight is missing or has another shape.
        ScaleRangeError: the graph is float16, which can't hold a scale.
        RoundingReferenceMissingError: inputs, keys or values are rounded, and ModelOpt is not installed.
    """
    model = _load_quantized(subject, synchronizer) if subject.layout is not None else _load_plain(subject)
    model.eval()
    if subject.layers < subject.depth:
        _take_scalars_of_whole_model(model, subject)
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


def _load_plain(subject: Subject) -> PreTrainedModel:
    config = copy.deepcopy(subject.config)
    model = _from_pretrained(subject, config, None, state_dict=stored_slices(subject.tensors))
    if subject.precision != "fp32":
        _round_weights(model, ELEMENT_TYPES[subject.precision])
    return model


def stored_slices(tensors: TensorIndex) -> dict[str, Any]:
    """Return what transformers itself gathers of a checkpoint's files: every tensor, read when it is indexed.

    ``from_pretrained`` of the folder would ask more of it than of the weights: an index with ``metadata``, for example.
    """
    from safetensors import safe_open

    files = dict.fromkeys(entry.file for entry in tensors.values())
    readers: list[Any] = [safe_open(file, framework="pt") for file in files]
    return {name: reader.get_slice(name) for reader in readers for name in reader.keys()}  # noqa: SIM118  # no mapping


def _load_quantized(subject: Subject, synchronizer: Synchronizer | None) -> PreTrainedModel:
    import torch

    from edgellm_core.verification.quantized_reference import compared_tensors, install_rounding, own_head
    from edgellm_core.verification.quantized_weights import KV_SCALES, StoredTensors, lazy_state
    from edgellm_core.verification.scale_range import require_scales_that_fit
    from edgellm_core.verification.synchronized import Synchronizer

    assert subject.layout is not None  # for mypy
    dtype: torch.dtype = getattr(torch, ELEMENT_TYPES[subject.element_type])
    stored, empty = StoredTensors(subject.tensors), _on_meta(subject.config, torch.float32)
    if dtype == torch.float16:
        names = compared_tensors(empty, subject)
        exact = KV_SCALES if subject.target.exact_cache_scales else ()
        require_scales_that_fit(subject.layout, stored, [name for name in names if not name.endswith(exact)])
    config = own_head(subject.config, empty, subject.layout)
    twin = _on_meta(config, dtype)
    state = lazy_state(subject.tensors, subject.layout, stored, dtype, _kept_wide(twin, dtype))
    model = _from_pretrained(subject, config, None, state_dict=state)
    _round_buffers(model, twin, dtype)
    install_rounding(model, subject, stored, dtype, synchronizer or Synchronizer())
    return model


def _from_pretrained(
    subject: Subject, config: PreTrainedConfig, source: Path | None, **options: Any
) -> PreTrainedModel:
    """Let transformers load all weights of a model in float32.

    Raises:
        ReferenceLoadError: it refuses, or a weight is missing or has another shape.
    """
    import torch

    from edgellm_core.tracing.weightless import causal_lm_class

    try:
        with _quiet_transformers():
            loaded: Any = causal_lm_class(subject.config).from_pretrained(
                source,
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


def _on_meta(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a config as transformers itself makes it, on the meta device."""
    import torch

    from edgellm_core.tracing.weightless import causal_lm_class

    model_class: Any = causal_lm_class(config)
    with torch.device("meta"), torch.no_grad():
        return model_class._from_config(copy.deepcopy(config), dtype=dtype)  # type: ignore[no-any-return]  # noqa: SLF001  # as AutoModel


def _take_scalars_of_whole_model(model: PreTrainedModel, subject: Subject) -> None:
    """Give a cut model's modules the numbers that the whole model has; MiniCPM3 scales residuals by 1/√depth."""
    import torch

    modules = dict(model.named_modules())
    for name, whole in _on_meta(subject.whole_config, torch.float32).named_modules():
        if name in modules:
            numbers = {key: value for key, value in vars(whole).items() if isinstance(value, float)}
            modules[name].__dict__.update(numbers)


def _round_weights(model: PreTrainedModel, element_type: str) -> None:
    """Round parameters and buffers to a type, but for those that transformers keeps in float32 in such a model."""
    import torch

    dtype: torch.dtype = getattr(torch, element_type)
    twin = _on_meta(model.config, dtype)
    wide = _kept_wide(twin, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and name not in wide:
                parameter.copy_(parameter.to(dtype))
    _round_buffers(model, twin, dtype)


def _kept_wide(twin: PreTrainedModel, dtype: torch.dtype) -> set[str]:
    """Return the parameters of another type in a model of ``dtype``: Ernie 4.5's routers, decay rates of delta nets."""
    return {name for name, parameter in twin.named_parameters() if parameter.dtype != dtype}


def _round_buffers(model: PreTrainedModel, twin: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round the buffers that transformers itself makes in ``dtype`` where the model is of that type, like ``twin``."""
    narrow = {name for name, buffer in twin.named_buffers() if buffer.dtype == dtype}
    for name, buffer in model.named_buffers():
        if name in narrow:
            buffer.copy_(buffer.to(dtype))


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
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


def record(
    model: PreTrainedModel, cases: Sequence[Case], subject: Subject, tell: Callable[[Case], None]
) -> list[Recording]:
    """Run all cases on the original; its own greedy tokens feed the decode steps.

    Raises:
        ReferenceNotFiniteError: its logits are not finite.
    """
    runner = ReferenceRunner(model)
    recordings = []
    for case in cases:
        tell(case)
        recording = Recording(case=case)
        runner.start()
        for inputs in prefill_inputs(case):
            _record_step(runner, recording, inputs, subject)
        for number in range(1, case.decode + 1):
            last = recording.steps[-1]
            tokens = [int(logits[-1].argmax()) for logits in last.logits]
            _record_step(runner, recording, decode_inputs(case, last.inputs, tokens, number), subject)
        recordings.append(recording)
    return recordings


def _record_step(runner: ReferenceRunner, recording: Recording, inputs: StepInputs, subject: Subject) -> None:
    append_step(recording, inputs, runner.run(inputs), subject)


def append_step(recording: Recording, inputs: StepInputs, logits: Logits, subject: Subject) -> None:
    """Append what the original computed in one step, [batch, seq, vocab].

    Raises:
        ReferenceNotFiniteError: its logits are not finite.
    """
    rows = real_rows(logits, inputs)
    recording.steps.append(Step(inputs=inputs, logits=rows))
    for row, values in enumerate(rows):
        if not np.isfinite(values).all():
            raise ReferenceNotFiniteError(subject.directory, recording.label(len(recording.steps) - 1, row))


def real_rows(values: np.ndarray[Any, Any], inputs: StepInputs) -> tuple[np.ndarray[Any, Any], ...]:
    """Return, for each row, the values [real positions, …] at the positions that are not padding (a copy)."""
    return tuple(row[real] for row, real in zip(values, inputs.real, strict=True))
