"""A transformers model without weights: parameters are fake tensors, buffers (RoPE frequencies) are real.

Parameters on the meta device would do for most models, but constants that are lifted from meta tensors lose their
values (index lists, scaled frequencies); fake tensors on the CPU keep them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from edgellm_core.tracing.configuration import NO_CAUSAL_LM, is_read
from edgellm_core.tracing.errors import UnknownConfigNameError, UnsupportedArchitectureError
from edgellm_core.tracing.modeling_code import refused_as_untraceable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedConfig, PreTrainedModel


def new_fake_mode() -> FakeTensorMode:
    """Return the mode in which the weightless parameters live; ``torch.export`` takes it over."""
    return FakeTensorMode(
        shape_env=ShapeEnv(tracked_fakes=[]),  # torch leaves it unannotated
        allow_non_fake_inputs=True,
        export=True,
    )


def causal_lm_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return transformers' causal language model class for a config.

    Raises:
        UnsupportedArchitectureError: there is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        reason = f"the installed transformers {NO_CAUSAL_LM}"
        raise UnsupportedArchitectureError(config.model_type, config.architectures, reason) from None
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, (list, tuple)) else found
    return chosen


def build_weightless(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model with all parameters on the meta device and all buffers computed.

    Attention runs through transformers' ``sdpa`` slot where the class allows that, so that tracing can take it over.

    Args:
        config: transformers config; not changed.
        dtype: element type of the parameters.

    Raises:
        UnsupportedArchitectureError: it is no causal language model, or one that is configured as an encoder.
        UntraceableModelError: transformers can't build it.
    """
    from transformers.initialization import no_init_weights

    model_class = causal_lm_class(config)
    with (
        refused_as_untraceable(model_class.__name__, "building it from the config"),
        _unknown_names_told(config, model_class.__name__),
        _parameters_on_meta(),
        no_init_weights(),
    ):
        model: PreTrainedModel = model_class._from_config(  # noqa: SLF001  # what AutoModel calls itself
            config, dtype=dtype, attn_implementation="eager"
        )
    with refused_as_untraceable(model_class.__name__, "initializing its buffers"):
        _initialize_buffers(model)
    text_config = model.config.get_text_config()
    if getattr(text_config, "is_decoder", True) is False and is_read("is_decoder", type(text_config)):
        reason = "is_decoder is false, so it is an encoder, whose tokens also attend to later ones"
        raise UnsupportedArchitectureError(config.model_type, config.architectures, reason)
    model.tie_weights()  # left out by no_init_weights (transformers 5.23)
    model.eval()
    if model_class._can_set_attn_implementation():  # noqa: SLF001  # no public query exists (transformers 5.23)
        for module in model.modules():
            module_config: Any = getattr(module, "config", None)
            if hasattr(module_config, "_attn_implementation_internal"):
                module_config._attn_implementation_internal = "sdpa"  # noqa: SLF001
    return model


@contextlib.contextmanager
def _unknown_names_told(config: PreTrainedConfig, model: str) -> Iterator[None]:
    """Name the keys of a config whose value a table of transformers lacks (``ACT2FN``, ``ROPE_INIT_FUNCTIONS``).

    Raises:
        UnknownConfigNameError: the body looked such a value up.
    """
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        keys = list(_keys_of(name, config.to_dict()))
        if not isinstance(name, str) or not keys:
            raise
        raise UnknownConfigNameError(model, keys, name) from error


def _keys_of(value: object, fields: Mapping[str, Any], owner: str = "") -> Iterator[str]:
    """Yield the keys that have a value, with the parts that they lie in."""
    for key, found in fields.items():
        if found == value:
            yield f"{owner}{key}"
        elif isinstance(found, dict):
            yield from _keys_of(value, found, f"{owner}{key}.")


def _initialize_buffers(model: PreTrainedModel) -> None:
    """Compute buffers that no checkpoint holds once more, as ``from_pretrained`` does: in float32 as default type.

    Constructors run with the model's type as default, in which GPT-J's frequencies would be rounded to float16.
    """
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True  # what transformers' initialization looks at  # noqa: SLF001
    model.initialize_weights()


def give_fake_parameters(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every meta parameter by a fake CPU tensor of the mode; shared parameters stay shared."""
    made: dict[int, nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):  # noqa: SLF001  # setattr would re-register
                if parameter is None:
                    continue
                if id(parameter) not in made:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(fake, requires_grad=False)
                module._parameters[name] = made[id(parameter)]  # noqa: SLF001


@contextlib.contextmanager
def restored_modules(model: nn.Module) -> Iterator[None]:
    """Undo every attribute and buffer that the body changes on the model's modules.

    Some RoPE variants store what they computed on themselves, which would leave fake tensors behind.
    """
    saved = [(module, dict(module.__dict__), dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
    try:
        yield
    finally:
        for module, attributes, buffers in saved:
            for name in [name for name in module.__dict__ if name not in attributes]:
                del module.__dict__[name]
            module.__dict__.update(attributes)
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(buffers)  # noqa: SLF001


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    original: Any = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        original(self, name, param)
        if param is not None and param.device.type != "meta":
            self._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]
