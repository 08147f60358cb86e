"""Plans the tensors of a converted checkpoint: each from tensors of the GGUF file, each of which is accounted for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.gguf.rope import ROPE_TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgellm_core.checkpoint.gguf.header import GgufHeader, GgufTensor
    from edgellm_core.gguf_form import GgufForm

COMMON_TENSORS: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{n}.attn_norm": "model.layers.{n}.input_layernorm",
    "blk.{n}.attn_q": "model.layers.{n}.self_attn.q_proj",
    "blk.{n}.attn_k": "model.layers.{n}.self_attn.k_proj",
    "blk.{n}.attn_v": "model.layers.{n}.self_attn.v_proj",
    "blk.{n}.attn_output": "model.layers.{n}.self_attn.o_proj",
    "blk.{n}.attn_q_norm": "model.layers.{n}.self_attn.q_norm",
    "blk.{n}.attn_k_norm": "model.layers.{n}.self_attn.k_norm",
    "blk.{n}.ffn_norm": "model.layers.{n}.post_attention_layernorm",
    "blk.{n}.ffn_gate": "model.layers.{n}.mlp.gate_proj",
    "blk.{n}.ffn_up": "model.layers.{n}.mlp.up_proj",
    "blk.{n}.ffn_down": "model.layers.{n}.mlp.down_proj",
}
"""llama.cpp's name → name in the checkpoint, in most decoders."""

READ_TYPES: Final = frozenset(
    {
        "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4",
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
    }
)  # fmt: skip
"""Element types of weights that are read."""

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One tensor of the converted checkpoint.

    Attributes:
        name: in the checkpoint.
        shape: its dimensions.
        sources: tensors of the file whose rows it has; two take turns row by row. None: it is zero.
        first_row: row of the sources (leading dimensions flattened) where it begins.
        paired_heads: heads whose rows were reordered from two halves to pairs; 0 where rows are in order.
        offset: number that is subtracted.
        transposed: whether the last two dimensions are swapped.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[GgufTensor, ...]
    first_row: int = 0
    paired_heads: int = 0
    offset: float = 0.0
    transposed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """All tensors of the converted checkpoint.

    Attributes:
        targets: in the order of the file.
        findings: what can't be read without a loss; empty when every tensor is accounted for.
    """

    targets: tuple[Target, ...]
    findings: tuple[str, ...]


def plan_tensors(header: GgufHeader, config: Mapping[str, Any], form: GgufForm) -> TensorPlan:
    """Plan the tensors of the checkpoint; what the model lacks is found by ``check_parameters``.

    Args:
        header: of the file, or of all parts.
        config: config.json that was read out of it.
        form: how the family's files are written.
    """
    planner = _Planner(config, form)
    targets = [target for tensor in header.tensors for target in planner.targets_of(tensor)]
    targets += planner.interleaved()
    names = [target.name for target in targets]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    findings = [*planner.findings, *(f"two of its tensors are {name}" for name in repeated)]
    return TensorPlan(targets=tuple(targets), findings=tuple(findings))


def complete_plan(
    plan: TensorPlan, parameters: Mapping[str, tuple[int, ...]], renamed: Mapping[str, str]
) -> TensorPlan:
    """Hold a plan against the parameters of the model: fill in biases that are zero, note what lacks or is too much.

    Experts are left out: their names in the checkpoint are not those of the model, and binding accounts for them.

    Args:
        plan: of the file.
        parameters: name and shape of every parameter of the model that is not tied to another.
        renamed: parts of the parameters' names → what the checkpoint has instead.
    """
    shapes = {_renamed(name, renamed): shape for name, shape in parameters.items()}
    targets, findings = list(plan.targets), list(plan.findings)
    index = {target.name: position for position, target in enumerate(targets)}
    for name, shape in shapes.items():
        if ".experts." in name and name not in index:
            continue
        if name not in index:
            if name.endswith(".bias"):  # of a layer whose siblings have one: adding zero is exact
                targets.append(Target(name=name, shape=shape, sources=()))
            else:
                findings.append(f"it lacks {name}")
        elif _squeezed(found := targets[index[name]].shape) != _squeezed(shape):
            findings.append(f"{name} would be {list(found)}, and the model has {list(shape)}")
    experts = {name.partition(".experts.")[0] for name in shapes if ".experts." in name}
    findings += [
        f"the model has no {name} for it"
        for name in index
        if name not in shapes and name.partition(".experts.")[0] not in experts
    ]
    reshaped = [_with_shape(target, shapes.get(target.name)) for target in targets]
    return TensorPlan(targets=tuple(reshaped), findings=tuple(findings))


class _Planner:
    """Maps one tensor after the other."""

    def __init__(self, config: Mapping[str, Any], form: GgufForm) -> None:
        self.config = config
        self.form = form
        self.names = {**COMMON_TENSORS, **dict(_with_prefixes(key, name) for key, name in form.tensors.items())}
        self.stacked = {part: name for name, pair in form.interleaved.items() for part in pair}
        self.waiting: dict[str, GgufTensor] = {}
        self.findings: list[str] = []

    def targets_of(self, tensor: GgufTensor) -> Iterator[Target]:
        """Yield what becomes of a tensor."""
        if tensor.name in ROPE_TENSORS:  # the config says them
            return
        key, numbers = _template(tensor.name)
        if (part := key.removeprefix("blk.{n}.")) in self.stacked:
            self.waiting[tensor.name] = tensor
            return
        template = self._template_of(key)
        layers = self.config.get("num_hidden_layers", 0)
        if template is None or (numbers and numbers[0] >= layers):
            self.findings.append(f"nothing is known about its tensor {tensor.name}")
        elif tensor.element_type not in READ_TYPES:
            self.findings.append(f"its tensor {tensor.name} is {tensor.element_type}, which is not read")
        elif "{e}" in template and "{e}" not in key:
            yield from self._taken_apart(tensor, template, numbers)
        else:
            name = template.replace("{n}", str(numbers[0]) if numbers else "")
            yield self._target(tensor, part, name.replace("{e}", str(numbers[-1]) if numbers else ""), tensor.shape)

    def interleaved(self) -> Iterator[Target]:
        """Yield the tensors in which the rows of two take turns."""
        for name in list(self.waiting):
            key, (layer, *_rest) = _template(name)
            target = self.stacked[key.removeprefix("blk.{n}.")]
            pair = [self.waiting.pop(f"blk.{layer}.{part}", None) for part in self.form.interleaved[target]]
            sources = [tensor for tensor in pair if tensor is not None]
            if sources and (len(sources) != len(pair) or sources[0].shape != sources[1].shape):
                self.findings.append(f"{sources[0].name} has no partner of its shape")
            elif sources:
                *outer, rows, columns = (*sources[0].shape, 1) if len(sources[0].shape) == 2 else sources[0].shape
                shape = (*outer, 2 * rows) if columns == 1 else (*outer, 2 * rows, columns)
                yield self._shaped(f"model.layers.{layer}.{target}", shape, tuple(sources))

    def _taken_apart(self, tensor: GgufTensor, template: str, numbers: Sequence[int]) -> Iterator[Target]:
        """Yield one tensor for each expert or head."""
        rows = math.prod(tensor.shape[1:-1])
        for index in range(tensor.shape[0]):
            name = template.replace("{n}", str(numbers[0])).replace("{e}", str(index))
            yield Target(name=name, shape=tensor.shape[1:], sources=(tensor,), first_row=index * rows)

    def _target(self, tensor: GgufTensor, part: str, name: str, shape: tuple[int, ...]) -> Target:
        """Return a tensor that is one of the file."""
        base = part.rpartition(".")[0]
        paired = 0
        if base in self.form.paired_rows:
            paired = self.config["num_key_value_heads" if base.endswith("_k") else "num_attention_heads"]
            if shape[0] % (2 * paired):
                self.findings.append(f"{tensor.name} has {shape[0]} rows, which {paired} heads don't divide in halves")
        offset = self.form.norm_offset if part.endswith("norm.weight") else 0.0
        return self._shaped(name, shape, (tensor,), paired_heads=paired, offset=offset)

    def _shaped(self, name: str, shape: tuple[int, ...], sources: tuple[GgufTensor, ...], **kind: Any) -> Target:
        """Return a tensor with its last two dimensions swapped where the family does so."""
        transposed = name.partition(".layers.")[2].partition(".")[2] in self.form.transposed
        if transposed:
            shape = (*shape[:-2], shape[-1], shape[-2])
        return Target(name=name, shape=shape, sources=sources, transposed=transposed, **kind)

    def _template_of(self, key: str) -> str | None:
        """Return the checkpoint's name for a tensor's; its suffix is carried over unless the table has it."""
        if key in self.names:
            return self.names[key] or None
        base, _, suffix = key.rpartition(".")
        template = self.names.get(base)
        return f"{template}.{suffix}" if template and suffix in {"weight", "bias"} else None


def _template(name: str) -> tuple[str, list[int]]:
    """Return a name with ``{n}`` and ``{e}`` for its numbers, and the numbers."""
    numbers = [int(number) for number in _NUMBER.findall(name)]
    key = _NUMBER.sub("{e}", name).replace("blk.{e}.", "blk.{n}.", 1)
    return key, numbers


def _with_prefixes(key: str, name: str) -> tuple[str, str]:
    """Return both names of a family's table with the prefix of their layer, unless they lie outside of the layers."""
    return (key, name) if key in COMMON_TENSORS else (f"blk.{{n}}.{key}", f"model.layers.{{n}}.{name}")


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    for part, other in renamed.items():
        name = name.replace(part, other)
    return name


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _with_shape(target: Target, shape: tuple[int, ...] | None) -> Target:
    """Return the tensor with the model's own shape, which may have dimensions of 1 besides."""
    return target if shape is None or shape == target.shape else replace(target, shape=shape)
