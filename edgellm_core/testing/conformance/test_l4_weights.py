"""Level 4: models of the registry, with their real weights, built whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from edgellm_core.testing.kit.check import check
from edgellm_core.testing.kit.skips import SkipReason, skip

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.bundle import Bundle
    from edgellm_core.engine import EngineChoice
    from edgellm_core.testing.kit.case import Case

COMPUTE_CAPABILITY: Final = 120


@check(4, per="model")
def test_build(edgellm_case: Case, tmp_path: Path) -> None:
    """The model is built whole, passes the gate, and gets an engine where TensorRT-RTX is installed."""
    key, plan = edgellm_case.key, edgellm_case.plan
    source = _source(edgellm_case)
    if source is None:
        skip(SkipReason.NEEDS_WEIGHTS, f"Model {key.model!r}.")
    bundle = _build(edgellm_case, source, tmp_path / "bundle")
    manifest = bundle.manifest
    proof = manifest.verification
    assert manifest.family.name == key.family
    assert proof.status == "passed"
    assert proof.max_rel_err is not None
    known = plan.registry.get(key.model).precisions.items()
    limit = next(status.max_rel_err for name, status in known if name == key.precision) or proof.tolerance
    assert limit is not None
    assert proof.max_rel_err <= limit
    edgellm_case.tell(f"max relative error {proof.max_rel_err:.2g} of {limit:g} on {proof.prompts} prompts")
    if plan.record is not None:
        from edgellm_core.testing.records import make_record, write_record

        path = write_record(plan.record, make_record(key.model, manifest))
        edgellm_case.tell(f"recorded in {json.dumps(str(path))}")


def _build(case: Case, source: str, out: Path) -> Bundle:
    from edgellm_core.engine import BACKENDS
    from edgellm_core.pipeline.build import build
    from edgellm_core.pipeline.settings import BuildSettings

    engine: EngineChoice = "tensorrt-rtx" if BACKENDS["tensorrt-rtx"].installed() else "none"
    settings = BuildSettings(
        precision=case.key.precision,
        plugin_paths=case.plan.plugin_paths,
        verify="full",
        engine=engine,
        compute_capability=COMPUTE_CAPABILITY if engine == "tensorrt-rtx" else None,
        use_cache=False,
    )
    return build(source, out, settings)


def _source(case: Case) -> str | None:
    """Return what to build from: the user's directory, an installed package, an earlier download, or the hub."""
    from edgellm_core.checkpoint.hub import cached_snapshot
    from edgellm_core.checkpoint.location import locate

    key, plan = case.key, case.plan
    if key.model in plan.weights:
        return str(plan.weights[key.model])
    location = locate(key.model, registry=plan.registry)
    if location.kind != "hub" or plan.download:
        return key.model
    snapshot = cached_snapshot(location)
    return None if snapshot is None else str(snapshot)
