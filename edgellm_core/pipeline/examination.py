"""What ``detect --deep`` does of a build: tokenizer, trace, surgery, account of tensors, twin; reads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.source import Checkpoint, SourceRecord
from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.errors import EdgellmError
from edgellm_core.pipeline.checks import require_types
from edgellm_core.pipeline.detection import local_checkpoint
from edgellm_core.pipeline.export import lower, write_side_files
from edgellm_core.pipeline.template import make_template, template_key
from edgellm_core.pipeline.tensor_plan import plan_tensors
from edgellm_core.pipeline.trace_cache import cached_template, store_template
from edgellm_core.pipeline.twin import proof, stored_proof, takes_one_token
from edgellm_core.quantization.importers import find_importer
from edgellm_core.targets import find_target, require_precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

    from edgellm_core.bundle.manifest import TwinRecord
    from edgellm_core.checkpoint.location import Location
    from edgellm_core.checkpoint.preflight import Metadata
    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost, Selection
    from edgellm_core.weights.left_out import LeftOut


@dataclass(kw_only=True)
class Examined:
    """A checkpoint, and what a build of it would do.

    Attributes:
        checkpoint: as the build would have it, but for the data of its tensors.
        original: with its files; None where they are not on this machine.
        selection: its family.
        target: name of the target.
        precision: of everything that is not quantized.
        host: the plugins.
        folder: where files that lie beside a graph may be written.
        report: told what is unusual.
        left_out: what of the checkpoint would not be in the graph.
        traced: the graph without weights; None until a build would have one.
        twin: how long lengths were proved.
    """

    checkpoint: Checkpoint
    original: Checkpoint | None
    selection: Selection
    target: str
    precision: str
    host: PluginHost
    folder: Path
    report: Reporter
    left_out: Sequence[LeftOut] = ()
    traced: onnx.ModelProto | None = None
    twin: TwinRecord | None = None


def checkpoint_to_examine(
    metadata: Metadata, folder: Path, host: PluginHost, *, trust_remote_code: bool
) -> Checkpoint | None:
    """Return the checkpoint as a build would have it, but for the data of its tensors; None where that can't be known.

    Args:
        metadata: what is known about the source.
        folder: where files that describe it may be written.
        host: the plugins.
        trust_remote_code: let the checkpoint's own modeling code run; from the hub it is downloaded.

    Raises:
        UserError: it can't be read, or is quantized in a way that can't be represented; one class per cause.
    """
    if metadata.tensors is None:
        return None
    if metadata.location.path is not None and metadata.directory is None:
        return _gguf_checkpoint(metadata, metadata.location.path, folder, host)
    checkpoint = local_checkpoint(metadata, trust_remote_code=trust_remote_code)
    if checkpoint is None:
        checkpoint = _remote_checkpoint(metadata, folder, trust_remote_code=trust_remote_code)
    importer = find_importer(checkpoint.config)
    if importer is None or not checkpoint.headers:  # importers read a few numbers, which are not here
        return checkpoint if importer is None else None
    from edgellm_core.quantization.importers.conversion import described_tensors

    described = folder / "converted"
    described.mkdir()
    tensors = described_tensors(checkpoint.directory, checkpoint.config, checkpoint.tensors, importer, described)
    return replace(checkpoint, directory=described, config=read_config(described), tensors=tensors, headers=())


def _gguf_checkpoint(metadata: Metadata, file: Path, folder: Path, host: PluginHost) -> Checkpoint:
    """Return what a GGUF file would become."""
    from edgellm_core.checkpoint.gguf.conversion import described_tensors
    from edgellm_core.checkpoint.gguf.parts import read_gguf

    tensors = described_tensors(read_gguf(file), host, folder)
    return _described(metadata.location, read_config(folder), tensors, folder)


def _remote_checkpoint(metadata: Metadata, folder: Path, *, trust_remote_code: bool) -> Checkpoint:
    """Return a checkpoint of the hub without its files, but for config.json and code."""
    if trust_remote_code:
        from edgellm_core.checkpoint.hub import download_code

        folder = download_code(metadata.location)
    else:
        (folder / "config.json").write_text(json.dumps(dict(metadata.config)), encoding="utf-8")
    tensors = {
        tensor.name: TensorEntry(
            name=tensor.name,
            element_type=tensor.element_type,
            shape=tensor.shape,
            file=Path(metadata.location.id),
            offset=0,
            nbytes=tensor.nbytes,
        )
        for tensor in metadata.tensors or ()
    }
    described = _described(metadata.location, metadata.config, tensors, folder)
    return replace(described, trust_remote_code=trust_remote_code)


def _described(location: Location, config: Mapping[str, Any], tensors: TensorIndex, folder: Path) -> Checkpoint:
    """Return a checkpoint without data, whose description lies in a folder."""
    record = SourceRecord(kind=location.kind, id=location.id, revision=location.revision, digest="")
    return Checkpoint(directory=folder, source=record, config=config, tensors=tensors, headers=())


def examine(examined: Examined) -> Iterator[str]:
    """Do what a build does before and around the binding of weights; yield why it would be refused."""
    for step in (_tokenizer, _graph, _types, _twin):
        try:
            step(examined)
        except EdgellmError as error:
            yield str(error)


def _tokenizer(examined: Examined) -> None:
    """Compare the tokenizer with transformers' own."""
    from edgellm_core.tokenization.writing import write_tokenizer

    if examined.original is not None:
        write_tokenizer(examined.original, examined.selection.family, examined.folder, examined.report)


def _graph(examined: Examined) -> None:
    """Trace, lower, account for every tensor, compare types, and write what lies beside the graph."""
    checkpoint, selection, host = examined.checkpoint, examined.selection, examined.host
    target = find_target(examined.target, host.targets())
    require_precision(target, examined.precision)
    target.check(checkpoint, selection.family)
    key = template_key(checkpoint, selection, examined.precision, full_depth=False)
    template = cached_template(key)
    if template is None:
        template = make_template(
            checkpoint, selection, examined.precision, host=host, full_depth=False, report=examined.report
        )
        store_template(key, template)
    lowered = lower(template, checkpoint, selection, target, host, examined.precision)
    examined.left_out = plan_tensors(lowered, template, checkpoint, selection.family).left_out
    if examined.original is not None:
        write_side_files(lowered, checkpoint, selection, examined.folder, examined.report)
    examined.traced = lowered.model


def _types(examined: Examined) -> None:
    """Compare the types of the graph with the original's."""
    if examined.traced is not None:
        require_types(examined.traced, examined.checkpoint, examined.selection, examined.precision, examined.report)


def _twin(examined: Examined) -> None:
    """Prove the long lengths, or take an earlier proof; a build takes this one."""
    if examined.traced is not None:
        checkpoint, selection = examined.checkpoint, examined.selection
        examined.twin = stored_proof(checkpoint, selection) or proof(
            checkpoint, selection, examined.host, examined.report, one_token=takes_one_token(examined.traced)
        )
