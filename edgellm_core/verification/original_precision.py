"""Which delicate operators the original computes in float16 or bfloat16: transformers' code, run without weights.

Nothing of our tracing takes part but the choice of one layer of each kind: attention is transformers' eager one, norms
and rotations are the modeling file's. Every operator of torch that runs is seen with the types that it takes.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.tracing.layers import LayerStack

Kind = Literal["norm", "square", "angle", "exponential", "gate", "sum"]
"""What a narrow type spoils: statistics of norms, the squares they take, RoPE's angles, exponentials and logarithms,
sigmoids and tangents, running sums."""

NARROW: Final = (torch.float16, torch.bfloat16)

KINDS: Final[Mapping[str, tuple[Kind, ...]]] = {
    **dict.fromkeys(("mean", "var", "var_mean", "std", "rsqrt", "sqrt", "linalg_vector_norm", "norm"), ("norm",)),
    "square": ("square",),
    **dict.fromkeys(("cos", "sin"), ("angle",)),
    **dict.fromkeys(
        (
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log1p",
            "softplus",
            "logaddexp",
            "_softmax",
            "_log_softmax",
            "logsumexp",
        ),
        ("exponential",),
    ),
    **dict.fromkeys(("sigmoid", "silu", "tanh", "gelu", "erf", "hardswish", "hardsigmoid"), ("gate",)),
    **dict.fromkeys(("mish", "log_sigmoid_forward"), ("exponential", "gate")),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp"), ("sum",)),
}
"""Operator of torch → kinds. Left out are ``native_layer_norm`` and the like: their kernels compute in float32 whatever
they take."""


@dataclass(kw_only=True)
class NarrowCounts:
    """How many operators of each kind the original computes in a narrow type.

    Attributes:
        layers: counts of each decoder layer.
        outside: counts outside the layers.
    """

    layers: list[Counter[Kind]]
    outside: Counter[Kind] = field(default_factory=Counter)

    def allowed(self, layer: int | None, kind: Kind, *, stamped: bool = True) -> int:
        """Return how many a graph may compute in a narrow type, in a layer or outside of all.

        Args:
            layer: decoder layer; None outside of all, where a graph may share what the original repeats in each.
            kind: what is computed.
            stamped: False for a graph that was traced whole and does not tell its layers apart.
        """
        if layer is not None and layer < len(self.layers):
            return self.layers[layer][kind]
        of_layers = [counts[kind] for counts in self.layers]
        return self.outside[kind] + (max(of_layers, default=0) if stamped else sum(of_layers))


def count_narrow(config: PreTrainedConfig, precision: torch.dtype) -> NarrowCounts:
    """Run transformers' own model of a config in a narrow type: three tokens, then one more over the cache.

    Args:
        config: transformers config; not changed.
        precision: element type of the weights.

    Raises:
        UntraceableModelError: the model can't be built or run without weights.
    """
    from edgellm_core.tracing.layers import analyse_stack, find_stack, keep_traced_layers
    from edgellm_core.tracing.modeling_code import refused_as_untraceable
    from edgellm_core.tracing.weightless import build_weightless, give_fake_parameters, new_fake_mode

    model = build_weightless(copy.deepcopy(config), precision)
    whole = copy.deepcopy(model.config)
    stack = analyse_stack(model, full_depth=False)
    if stack is not None:
        keep_traced_layers(model, stack)
    mode = new_fake_mode()
    give_fake_parameters(model, mode)
    _use_plain_implementations(model)
    traced = stack.traced if stack is not None else ()
    runs = []
    with refused_as_untraceable(type(model).__name__, "a forward without weights"), torch.no_grad(), mode:
        cache: Any = None
        for tokens in (3, 1):
            watch = _Watch()
            with _layers_told(find_stack(model)[1], traced, watch), watch:
                cache = _step(model, whole, tokens, cache)
            runs.append(watch.counts)
    return _as_counts(runs, stack)


def _step(model: PreTrainedModel, config: PreTrainedConfig, tokens: int, cache: Any) -> Any:
    from transformers import DynamicCache

    from edgellm_core.tracing.probe import cache_argument

    argument = cache_argument(model)
    given = {argument: cache or DynamicCache(config=config), "use_cache": True}
    output = model(input_ids=torch.zeros(1, tokens, dtype=torch.long), **given)
    return getattr(output, argument, None)


def _use_plain_implementations(model: PreTrainedModel) -> None:
    """Choose the attention and the experts that no data decides about."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            config._attn_implementation_internal = "eager"  # noqa: SLF001  # no public query exists
        if hasattr(config, "_experts_implementation_internal"):
            config._experts_implementation_internal = "batched_mm"  # noqa: SLF001


@contextlib.contextmanager
def _layers_told(layers: Any, traced: Sequence[int], watch: _Watch) -> Iterator[None]:
    """Tell a watch in the body which layer runs."""

    def enter(index: int) -> Any:
        def hook(*_: Any) -> None:
            watch.layer = index

        return hook

    def leave(*_: Any) -> None:
        watch.layer = None

    handles = []
    for index, layer in zip(traced, layers, strict=False):
        handles += [layer.register_forward_pre_hook(enter(index)), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """Counts operators that take a narrow type; for angles, also any that led there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.layer: int | None = None
        self.counts: Counter[tuple[int | None, Kind]] = Counter()
        self._rounded: dict[int, torch.Tensor] = {}  # float32 tensors made of narrow ones

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        operands = [value for value in _flat(args) if isinstance(value, torch.Tensor) and value.is_floating_point()]
        narrow = [value for value in operands if value.dtype in NARROW]
        rounded = bool(narrow) or any(id(value) in self._rounded for value in operands)
        if rounded:
            self._rounded |= {id(value): value for value in _flat([result]) if isinstance(value, torch.Tensor)}
        for kind in _kinds(func.overloadpacket.__name__.rstrip("_"), args):  # x.exp_() counts as x.exp()
            if rounded if kind == "angle" else operands and operands[0].dtype in NARROW:
                self.counts[self.layer, kind] += 1
        return result


def _kinds(name: str, args: tuple[Any, ...]) -> tuple[Kind, ...]:
    if name == "pow":
        return ("square",) if isinstance(args[1], (int, float)) and args[1] == 2 else ()
    if name == "mul":
        return ("square",) if args[0] is args[1] else ()
    if name in ("_softmax", "_log_softmax") and len(args) > 2 and args[2]:  # half_to_float
        return ()
    return KINDS.get(name, ())


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value


def _as_counts(runs: Sequence[Counter[tuple[int | None, Kind]]], stack: LayerStack | None) -> NarrowCounts:
    """Return the larger count of all runs, for every layer that of the one it is a copy of."""
    largest: Counter[tuple[int | None, Kind]] = Counter()
    for counts in runs:
        largest |= counts
    found: dict[int | None, Counter[Kind]] = {}
    for (layer, kind), count in largest.items():
        found.setdefault(layer, Counter())[kind] = count
    twins = stack.representative_of if stack is not None else ()
    return NarrowCounts(layers=[found.get(twin, Counter()) for twin in twins], outside=found.get(None, Counter()))
