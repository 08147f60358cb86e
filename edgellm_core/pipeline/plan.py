"""What a build would do, for ``--dry-run``: stages with their cost, and what will not work."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgellm_core.bundle import check_output
from edgellm_core.checkpoint.own_code import code_digest
from edgellm_core.checkpoint.preflight import read_metadata, summarize
from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.quantized import plain_names
from edgellm_core.pipeline.trace_cache import cached_template, trace_key
from edgellm_core.quantization.importers import find_importer
from edgellm_core.quantization.layout import read_layout
from edgellm_core.registry import ModelRegistry
from edgellm_core.targets import find_target, require_precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.checkpoint.preflight import Metadata
    from edgellm_core.contract import Target
    from edgellm_core.host import Selection
    from edgellm_core.pipeline.settings import BuildSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStage:
    """One stage of a plan; RAM and disk in bytes."""

    stage: str
    ram: int
    disk: int
    cached: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a build would do.

    Attributes:
        source: the model.
        out: where the bundle would go.
        family: the family that would handle it, and why.
        stages: the stages in order.
        will_not_work: reasons why the build would fail.
    """

    source: str
    out: str
    family: str
    stages: tuple[PlannedStage, ...]
    will_not_work: tuple[str, ...]

    def to_json(self) -> str:
        """Return the plan as one JSON object."""
        return json.dumps(asdict(self))

    def to_text(self) -> str:
        """Return the plan for people."""
        lines = [f"{self.source} → {self.out}", f"family {self.family}"]
        for stage in self.stages:
            cost = (
                "from cache" if stage.cached else f"RAM {stage.ram / 2**30:.1f} GiB, disk {stage.disk / 2**30:.1f} GiB"
            )
            lines.append(f"  {stage.stage:<14}{cost}")
        lines += [f"Will not work: {reason}" for reason in self.will_not_work]
        return "\n".join(lines)


def make_plan(source: str, out: Path, settings: BuildSettings) -> Plan:
    """Plan a build without reading weights.

    Raises:
        EdgellmError: the build would be refused at once.
    """
    check_output(out, force=settings.force)
    host = PluginHost.load(settings.plugin_paths)
    target = find_target(settings.target, host.targets(), attention_scores=settings.attention_scores)
    scheme = settings.precision if settings.quantizes else None
    require_precision(target, settings.compute_precision, scheme=scheme, kv_cache=settings.kv_cache)
    metadata = read_metadata(
        source, registry=ModelRegistry.of_plugins(host.records), revision=settings.revision, host=host
    )
    selection = host.select(metadata.config, forced=settings.family, directory=metadata.directory)
    summary = summarize(
        metadata, precision=settings.compute_precision, claimed=selection.family.name != "generic", output=out
    )
    traced = settings.use_cache and _is_traced(metadata, selection, settings)
    skipped = {
        *(("verify",) if settings.verify == "off" else ()),
        *(("engine",) if not _builds_engine(settings, target) else ()),
    }
    return Plan(
        source=source,
        out=str(out),
        family=f"{selection.family.name}: {selection.reason}",
        stages=tuple(
            PlannedStage(stage=s.stage, ram=s.ram, disk=s.disk, cached=traced and s.stage == "trace")
            for s in summary.stages
            if s.stage not in skipped
        ),
        will_not_work=summary.will_not_work,
    )


def _is_traced(metadata: Metadata, selection: Selection, settings: BuildSettings) -> bool:
    """Say whether the trace of a checkpoint on this machine is cached; unknown counts as no."""
    if metadata.directory is None or metadata.tensors is None or find_importer(metadata.config):
        return False
    tensors = index_tensors(read_headers(metadata.directory))
    names = plain_names(tensors, read_layout(metadata.directory, metadata.config, tensors))
    code = code_digest(metadata.directory) if settings.trust_remote_code else ""
    key = trace_key(
        metadata.config, names, selection, settings.compute_precision, full_depth=settings.full_depth, own_code=code
    )
    return cached_template(key) is not None


def _builds_engine(settings: BuildSettings, target: Target) -> bool:
    return target.builds_engine if settings.engine == "auto" else settings.engine != "none"
