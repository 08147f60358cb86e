"""The original without weights, and the loading of some of them: transformers' own model, filled by its own loader.

Nothing of our tracing, wrappers or weight loading takes part, so that an error there can't be on both sides.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from edgellm_core.errors import one_line
from edgellm_core.tracing.layers import find_stack
from edgellm_core.verification.errors import ReferenceLoadError
from edgellm_core.verification.lazy_tables import give_rows, multiply_by_rows
from edgellm_core.verification.parts import EMBEDDING, LARGE_TABLE, Part
from edgellm_core.verification.quantized_weights import LazyWeight, StoredTensors, lazy_state
from edgellm_core.verification.reference import empty_model, kept_wide, quiet_transformers, round_buffers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.verification.extreme_tokens import Table
    from edgellm_core.verification.subject import Subject

TORCH_TYPES: Final = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision → its type in torch."""


class OriginalWeights:
    """The original, whose weights come and go; those outside of the decoder layers stay, but for large tables.

    Attributes:
        model: transformers' model; parameters that are not loaded lie on the meta device.
        path: path of the list of decoder layers; empty where there is none.
        layers: the decoder layers.
        directory: the checkpoint.
        stored: tensors of the checkpoint.
    """

    def __init__(self, subject: Subject, *, element_type: str = "fp32", rounded_to: str = "fp32") -> None:
        """Make the model and load what lies outside of its layers.

        Args:
            subject: what is compared.
            element_type: precision in which it computes.
            rounded_to: precision to which its weights are rounded.

        Raises:
            ReferenceLoadError: the checkpoint lacks a weight, or transformers refuses.
        """
        self._subject, self.directory = subject, subject.directory
        self._dtype, self._narrow = TORCH_TYPES[element_type], TORCH_TYPES[rounded_to]
        self.stored = StoredTensors(subject.tensors)
        config = subject.config
        if subject.layout is not None:
            from edgellm_core.verification.quantized_reference import own_head

            config = own_head(config, empty_model(config, torch.float32), subject.layout)
        self.model = ready_model(config, self._dtype, subject)
        self.path, self.layers = find_stack(self.model)
        twin = empty_model(config, self._narrow)
        self._wide = kept_wide(twin, self._narrow)
        self._state = self._lazy_state()
        self._empty = dict(self.model.named_parameters(remove_duplicate=False))
        self._tied: dict[int, list[str]] = {}
        for name, parameter in self._empty.items():
            self._tied.setdefault(id(parameter), []).append(name)
        self._sources = sources_by_target(self.model, self._state)
        self._tables = self._large_tables()
        self._undo: list[Any] = []
        self._load(None)
        if self._narrow != torch.float32:
            round_buffers(self.model, twin, self._narrow)

    @property
    def depth(self) -> int:
        """Number of decoder layers; 0 where they are no list."""
        return len(self.layers)

    def unit_bytes(self) -> list[int]:
        """Return the bytes of each unit's weights, from the embedding to the head; large tables count as one block."""
        sizes = [0] * (self.depth + 2)
        for name, parameter in self._empty.items():
            unit = self._unit(name)
            if unit is not None:
                sizes[unit - EMBEDDING] += parameter.numel() * self._dtype.itemsize
        head = self.model.get_output_embeddings()
        sizes[-1] = 0 if head is None else min(head.weight.numel(), LARGE_TABLE) * self._dtype.itemsize
        return sizes

    def total_bytes(self) -> int:
        """Return the bytes of all weights."""
        return sum(parameter.numel() for parameter in self.model.parameters()) * self._dtype.itemsize

    def load(self, part: Part) -> None:
        """Read the weights of a part.

        Raises:
            ReferenceLoadError: transformers refuses, or a weight is missing or has another shape.
        """
        for unit in range(max(part.start, 0), min(part.stop, self.depth)):
            self._load(unit)
        for name, (owner, source) in self._tables.items():
            if isinstance(owner, nn.Embedding) and EMBEDDING in part:
                self._undo.append(give_rows(owner, self.stored.rows(source), self._converter(name)))
            elif isinstance(owner, nn.Linear) and self.depth in part:
                multiply_by_rows(owner, self.stored.rows(source), self._converter(name))

    @contextlib.contextmanager
    def state(self, unit: int) -> Iterator[dict[str, torch.Tensor]]:
        """Hold the weights of a decoder layer in memory in the body, beside those outside, and give all by name.

        Large tables are as the checkpoint has them. For the embedding and the head, only what lies outside is held.
        """
        if 0 <= unit < self.depth:
            self._load(unit)
        try:
            state: dict[str, torch.Tensor] = self.model.state_dict()
            state |= {name: self.stored.read(source) for name, (_, source) in self._tables.items()}
            yield {name: value for name, value in state.items() if not value.is_meta}
        finally:
            self.unload()

    def embedding(self) -> tuple[Table, tuple[int, int]]:
        """Return the embedding, as the checkpoint has it where it is large, and its shape [vocabulary, hidden]."""
        module: Any = self.model.get_input_embeddings()
        large = (source for owner, source in self._tables.values() if owner is module)
        source = next(large, None)
        table: Any = module.weight.detach() if source is None else self.stored.rows(source)
        return table, (table.shape[0], table.shape[1])

    def unload(self) -> None:
        """Forget the weights of all layers and large tables."""
        for handle in self._undo:
            handle.remove()
        self._undo.clear()
        for name, parameter in self._empty.items():
            if self._unit(name) is not None or name in self._tables:
                set_parameter(self.model, name, parameter)
        for owner, _ in self._tables.values():
            owner.__dict__.pop("forward", None)
        self.stored.close()

    def _lazy_state(self) -> Mapping[str, LazyWeight]:
        subject = self._subject
        if subject.layout is not None:
            return lazy_state(subject.tensors, subject.layout, self.stored, self._narrow, self._wide)
        return {name: LazyWeight(self.stored, name, None, None) for name in subject.tensors}

    def _unit(self, name: str) -> int | None:
        """Return the decoder layer of a parameter or buffer; None for those outside."""
        if not self.path or not name.startswith(f"{self.path}."):
            return None
        return int(name.removeprefix(f"{self.path}.").split(".")[0])

    def _load(self, unit: int | None) -> None:
        """Fill the parameters and buffers of a decoder layer, or those outside of the layers but for large tables.

        What is tied to a parameter elsewhere, as in blocks that several layers share, is filled with it.
        """
        own = [name for name in self._empty if self._unit(name) == unit and name not in self._tables]
        targets = [name for name in self._sources if self._unit(name) == unit and name not in self._tables]
        names = dict.fromkeys([s for name in targets for s in self._sources[name]])
        names |= dict.fromkeys(s for name in own for s in self._sources_of(name))
        fill(self.model, {name: self._state[name] for name in names}, self._dtype, self._subject)
        self.stored.close()  # a weight of another type than the checkpoint's is a copy
        loaded = dict(self.model.named_parameters(remove_duplicate=False))
        filled = {id(self._empty[name]): value for name, value in loaded.items() if not value.is_meta}
        missing = sorted(name for name in own if id(self._empty[name]) not in filled)
        if missing:
            raise ReferenceLoadError(self._subject.directory, f"missing weights {', '.join(missing[:3])}")
        if self._subject.layout is None and self._narrow != self._dtype:
            for key in {id(self._empty[name]) for name in own if name not in self._wide}:
                self._round(filled[key])
        for name in own:
            set_parameter(self.model, name, filled[id(self._empty[name])])

    def _round(self, parameter: nn.Parameter) -> None:
        """Round a parameter where it is, so that what it was is not held beside it."""
        if parameter.is_floating_point():
            parameter.data = self._rounded(parameter)

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self._dtype).to(self._narrow).to(self._dtype)

    def _converter(self, name: str) -> Any:
        return (lambda rows: rows.to(self._dtype)) if name in self._wide else self._rounded

    def _large_tables(self) -> dict[str, tuple[nn.Module, str]]:
        """Return the large embeddings, and the head, by the name of their weight, with the tensor that holds it.

        An embedding is among them only where a head of its own multiplies: another reader would see rows of zeros.
        """
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear:
            return {}
        found: dict[str, tuple[nn.Module, str]] = {}
        for name, parameter in self._empty.items():
            owner = self.model.get_submodule(name.rpartition(".")[0])
            is_table = owner is head or isinstance(owner, nn.Embedding)
            sources = self._sources_of(name)
            if (
                is_table
                and name.endswith(".weight")
                and parameter.numel() >= LARGE_TABLE
                and len(sources) == 1
                and self._unit(name) is None
                and not self._is_quantized(sources[0])
            ):
                found[name] = owner, sources[0]
        return found

    def _sources_of(self, name: str) -> Sequence[str]:
        """Return the tensors of a parameter, or of one that it is tied to."""
        same = (name, *self._tied[id(self._empty[name])])
        return next((self._sources[other] for other in same if other in self._sources), [])

    def _is_quantized(self, tensor: str) -> bool:
        layout = self._subject.layout
        return layout is not None and tensor.removesuffix(".weight") in layout.linears


def ready_model(config: PreTrainedConfig, dtype: torch.dtype, subject: Subject) -> PreTrainedModel:
    """Return a model as ``from_pretrained`` makes it before it reads weights: with buffers that no checkpoint holds.

    Raises:
        ReferenceLoadError: transformers refuses.
    """
    try:
        model = empty_model(config, dtype)
        # what from_pretrained does once all weights are found (transformers 5.23, _finalize_model_loading)
        model._move_missing_keys_from_meta_to_device([], {"": "cpu"}, None, None)  # noqa: SLF001
        for tensor in model.state_dict(keep_vars=True).values():
            tensor._is_hf_initialized = True  # noqa: SLF001
        model.initialize_weights()
        model.tie_weights()
    except (OSError, ValueError, RuntimeError) as error:
        raise ReferenceLoadError(subject.directory, one_line(error)) from error
    model.requires_grad_(False)
    model.eval()
    return model


def sources_by_target(model: PreTrainedModel, names: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the tensors of a checkpoint by the parameter or buffer that transformers makes of them.

    Of several that it makes of one tensor, the first counts.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    state: dict[str, Any] = model.state_dict()
    transforms: list[Any] = get_model_conversion_mapping(model)
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    found: dict[str, list[str]] = {}
    for name in names:
        target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target, _ = rename_source_key(name, [], [], model.base_model_prefix, state)
        if target in state:
            found.setdefault(target, []).append(name)
    return found


def fill(model: PreTrainedModel, state: Mapping[str, LazyWeight], dtype: torch.dtype, subject: Subject) -> None:
    """Let transformers convert tensors of a checkpoint and set the parameters and buffers that they make.

    Raises:
        ReferenceLoadError: it refuses, or one has another shape.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    mapping: Any = get_model_conversion_mapping(model)
    settings = LoadStateDictConfig(
        device_map={"": "cpu"},
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),  # noqa: SLF001  # as from_pretrained
        weight_mapping=mapping,
    )
    try:
        with quiet_transformers(), torch.no_grad():
            info, _ = convert_and_load_state_dict_in_model(model, dict(state), settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise ReferenceLoadError(subject.directory, one_line(error)) from error
    problems = sorted(str(name) for name, *_ in info.mismatched_keys)
    if problems:
        raise ReferenceLoadError(subject.directory, f"mismatched weights {', '.join(problems[:3])}")


def set_parameter(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter in its place."""
    owner, _, attribute = name.rpartition(".")
    model.get_submodule(owner)._parameters[attribute] = parameter  # noqa: SLF001  # setattr would re-register
