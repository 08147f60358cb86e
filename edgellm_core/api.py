"""The Python twin of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm_core.events import Listener, ignore_events

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from edgellm_core.bundle import Bundle
    from edgellm_core.checkpoint.detection import Detection
    from edgellm_core.pipeline.foreign.surgery import SurgeryResult
    from edgellm_core.report.comparison import Comparison


def build(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    listener: Listener = ignore_events,
    **settings: Any,
) -> Bundle:
    """Build a verified bundle, as ``edgellm build`` does.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        out: directory to publish.
        listener: receives the events of all stages.
        settings: fields of :class:`edgellm_core.pipeline.settings.BuildSettings`.

    Returns:
        The published bundle.

    Raises:
        EdgellmError: the model can't be built, or differs from the original; nothing is published.
        TypeError: a setting that does not exist.
    """
    from edgellm_core.pipeline.build import build as run
    from edgellm_core.pipeline.settings import BuildSettings

    return run(str(source), Path(out), BuildSettings(**settings), listener=listener)


def quantize(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: str,
    listener: Listener = ignore_events,
    **settings: Any,
) -> Path:
    """Write a quantized checkpoint, as ``edgellm quantize`` does.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        out: directory to publish.
        precision: name of a quantization scheme.
        listener: receives the events of all stages.
        settings: other fields of :class:`edgellm_core.pipeline.quantization_settings.QuantizationSettings`.

    Returns:
        ``out``.

    Raises:
        EdgellmError: the model can't be quantized so; nothing is published.
        TypeError: a setting that does not exist.
    """
    from edgellm_core.pipeline.quantization_settings import QuantizationSettings
    from edgellm_core.pipeline.quantize import quantize as run

    return run(
        str(source), Path(out), QuantizationSettings(precision=precision, **settings), listener=listener
    ).directory


def compare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precisions: Sequence[str],
    prompts: Sequence[str] | None = None,
    max_new_tokens: int = 48,
    listener: Listener = ignore_events,
    **settings: Any,
) -> Comparison:
    """Build a model in several precisions and compare them, as ``edgellm compare`` does.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        out: directory of ``compare.html``, ``compare.json`` and the bundles.
        precisions: precisions and quantization schemes.
        prompts: texts that all of them answer; None for some of our own.
        max_new_tokens: most tokens of an answer.
        listener: receives the events of all stages.
        settings: other fields of :class:`edgellm_core.pipeline.settings.BuildSettings`.

    Returns:
        The numbers; its ``failed`` has the precisions that could not be built or run, and why.

    Raises:
        EdgellmError: nothing can be compared.
        TypeError: a setting that does not exist.
    """
    from edgellm_core.report.compare import compare as run
    from edgellm_core.report.settings import DEFAULT_PROMPTS, CompareSettings

    asked = CompareSettings(
        precisions=tuple(precisions),
        prompts=DEFAULT_PROMPTS if prompts is None else tuple(prompts),
        max_new_tokens=max_new_tokens,
        build=settings,
    )
    return run(str(source), Path(out), asked, listener=listener)


def detect(  # noqa: PLR0913  # options of the command
    source: str | os.PathLike[str],
    *,
    family: str | None = None,
    plugin_paths: Sequence[Path] = (),
    revision: str | None = None,
    precision: str = "fp16",
    deep: bool = False,
    target: str = "onnx",
    trust_remote_code: bool = False,
) -> Detection:
    """Say what a model is and what a build would take, as ``edgellm detect`` does; no weights are read.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        family: family to force.
        plugin_paths: folders with further plugins.
        revision: branch, tag or commit of a hub repository.
        precision: precision that the estimates are for.
        deep: also do what a build does without weights: tokenizer, trace, surgery, the account of every tensor, and
            the twin; the result then is a :class:`edgellm_core.pipeline.deep_detection.DeepDetection`. Loads torch and
            transformers.
        target: with ``deep``, form of the graph.
        trust_remote_code: with ``deep``, run the modeling code that the checkpoint brings itself.

    Raises:
        EdgellmError: the source can't be found or read.
    """
    from edgellm_core.pipeline.detection import DetectionSettings
    from edgellm_core.pipeline.detection import detect as plain

    run: Callable[[str, DetectionSettings], Detection] = plain
    if deep:
        from edgellm_core.pipeline.deep_detection import detect_deep

        run = detect_deep
    settings = DetectionSettings(
        family=family,
        plugin_paths=plugin_paths,
        revision=revision,
        precision=precision,
        target=target,
        trust_remote_code=trust_remote_code,
    )
    return run(str(source), settings)


def simplify_onnx(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    listener: Listener = ignore_events,
    **settings: Any,
) -> SurgeryResult:
    """Rewrite an ONNX file of any exporter in standard operators, as ``edgellm surgery`` does; no weights are read.

    Args:
        model: the ``.onnx`` file.
        out: the new file.
        listener: receives the events of all stages.
        settings: fields of :class:`edgellm_core.pipeline.foreign.surgery.SurgerySettings`.

    Raises:
        EdgellmError: the file can't be read or rewritten, or the result differs; nothing is written.
        TypeError: a setting that does not exist.
    """
    from edgellm_core.pipeline.foreign.surgery import SurgerySettings
    from edgellm_core.pipeline.foreign.surgery import simplify_onnx as run

    return run(Path(model), Path(out), SurgerySettings(**settings), listener=listener)
