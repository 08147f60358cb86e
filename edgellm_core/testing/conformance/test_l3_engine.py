"""Level 3: an engine of the tiny model in float16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.testing.kit.check import check
from edgellm_core.testing.kit.skips import SkipReason, skip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.testing.kit.case import Case, TinyModel

COMPUTE_CAPABILITY: Final = 120
"""TensorRT-RTX builds for it without a GPU; it has every format that TensorRT-RTX knows."""

HEAD_MULTIPLE: Final = 8
"""TensorRT-RTX 1.7.1 fails on float16 heads whose size is no multiple of 8."""


@check(3)
def test_engine_tensorrt_rtx(edgellm_case: Case) -> None:
    """TensorRT-RTX builds an engine for SM 120; no GPU is needed."""
    from edgellm_core.engine import BACKENDS

    backend = BACKENDS["tensorrt-rtx"]
    if not backend.installed():
        skip(SkipReason.NEEDS_TENSORRT_RTX)
    _build(edgellm_case, backend, COMPUTE_CAPABILITY)


@check(3)
def test_engine_tensorrt(edgellm_case: Case) -> None:
    """TensorRT builds an engine for the GPU that is there."""
    from edgellm_core.engine import BACKENDS
    from edgellm_core.engine.gpu import find_gpus

    backend = BACKENDS["tensorrt"]
    if not backend.installed():
        skip(SkipReason.NEEDS_TENSORRT)
    if not find_gpus():
        skip(SkipReason.NEEDS_GPU)
    _build(edgellm_case, backend, None)


def _build(case: Case, backend: Any, compute_capability: int | None) -> None:
    from edgellm_core.engine import ProfileLimits, build_engine

    tiny = float16_model(case)
    engine = tiny.model_path.with_name(f"{backend.name}.engine")
    limits = ProfileLimits(max_batch_size=2, max_input_len=16, max_seq_len=32)
    record = build_engine(
        tiny.model_path,
        engine,
        backend=backend,
        compute_capability=compute_capability,
        limits=limits,
        report=tiny.report,
    )
    assert record.bytes == engine.stat().st_size > 0
    assert compute_capability in (None, record.compute_capability)


def float16_model(case: Case) -> TinyModel:
    """Return the family's tiny model in float16, with heads of a size that TensorRT-RTX takes."""
    plan, key = case.plan, case.key
    if key.family not in plan.half_models:
        config, changed = with_head_multiple(case.tiny)
        folder = case.tiny.folder / "float16"
        plan.half_models[key.family] = half = type(case.tiny)(
            plan.host, key.family, folder, precision="fp16", config=config
        )
        folder.mkdir()
        half.changed = changed
    half = plan.half_models[key.family]
    if half.changed:
        case.tell(half.changed)
    return half


def with_head_multiple(tiny: TinyModel) -> tuple[Mapping[str, Any], str]:
    """Return the tiny config with heads whose size is a multiple of 8, and what was changed, in words."""
    config = dict(tiny.config)
    sizes = {
        dim.dim_value
        for value in tiny.lowered.model.graph.input
        if value.name.startswith("past_key_values.")
        for dim in value.type.tensor_type.shape.dim[3:]
    }
    odd = sorted(size for size in sizes if size % HEAD_MULTIPLE)
    if not odd:
        return config, ""
    size = -(-odd[0] // HEAD_MULTIPLE) * HEAD_MULTIPLE
    if "head_dim" in config:
        config["head_dim"] = size
    else:
        config["hidden_size"] = size * config["num_attention_heads"]
    return config, f"built with heads of {size} instead of {odd[0]}: TensorRT-RTX 1.7.1 needs multiples of 8 in fp16"
