"""Builds a TensorRT or TensorRT-RTX engine from an ONNX graph: one path for both packages."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.engine.errors import EngineBuildError, GraphParseError, ZeroPointsError
from edgellm_core.engine.form import EngineForm, load_libraries
from edgellm_core.engine.profiles import Profile, ProfileLimits, make_profiles
from edgellm_core.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgellm_core.engine.backend import Backend
    from edgellm_core.events import Reporter

HARMLESS_WARNINGS: Final = ("has Int64 binding",)
"""Parts of warnings that say nothing to a user: int64 ids are what target ``onnx`` promises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """What was built; the value of ``engine`` in bundle.json.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: version of that package.
        compute_capability: 10 * major + minor of the GPUs that it runs on; None for every RTX GPU since Ampere.
        profiles: optimization profiles in the order of their indices.
        bytes: size of the engine file.
        seconds: wall-clock seconds of parsing and building.
    """

    backend: str
    version: str
    compute_capability: int | None
    profiles: tuple[Profile, ...]
    bytes: int
    seconds: float


def build_engine(
    onnx_path: Path,
    out: Path,
    *,
    backend: Backend,
    compute_capability: int | None,
    limits: ProfileLimits,
    report: Reporter,
    form: EngineForm | None = None,
) -> EngineRecord:
    """Build ``out`` from ``onnx_path``, strongly typed: each tensor keeps the type that the graph gives it.

    Args:
        onnx_path: the graph; external data beside it.
        out: the engine file, written under another name and renamed when it is whole.
        backend: package to build with (:func:`edgellm_core.engine.backend.choose_backend`).
        compute_capability: GPU architecture to build for, for example 120; None for the backend's default.
        limits: batch, prompt and sequence sizes that the engine must take.
        report: receives warnings as notes, and the elapsed time about once a second.
        form: what the graph's target asks for; by default that of target ``onnx``.

    Raises:
        UserError: ``compute_capability`` can't be built for here (:meth:`Backend.target`).
        ZeroPointsError: the graph has four-bit weights with zero points.
        GraphParseError: the parser refused the graph.
        UnexpectedGraphInputError: the graph has an input that its target has not.
        EngineLibraryError: the library with its plugins is not here.
        EngineBuildError: the builder gave up.
    """
    target = backend.target(compute_capability)
    trt = backend.load()
    form = form or EngineForm()
    began = report.seconds
    _loaded = load_libraries(form.libraries(backend, target))  # until the engine is built
    log = _make_logger(trt, report)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, onnx_path, backend)
    allow_plain_attention(trt, network)
    config = builder.create_builder_config()
    for feature in form.preview_features:
        config.set_preview_feature(getattr(trt.PreviewFeature, feature), True)
    if not backend.needs_gpu and target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target}"), 0)
    profiles = make_profiles(backend.profile_names, limits)
    for profile in profiles:
        config.add_optimization_profile(_fill_profile(builder.create_optimization_profile(), network, profile, form))

    architecture = f"SM {target}" if target else "every RTX GPU since Ampere"
    with elapsed_time(report, f"building for {architecture}"):
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineBuildError(onnx_path, backend=backend.name, reason=log.reason())
    _write_atomically(out, serialized)
    return EngineRecord(
        backend=backend.name,
        version=backend.version(),
        compute_capability=target,
        profiles=tuple(profiles),
        bytes=out.stat().st_size,
        seconds=round(report.seconds - began, 3),
    )


def _has_zero_points(onnx_path: Path) -> bool:
    """Say whether a graph has UINT4 weights, of which the parser only says that it can't import an initializer."""
    import onnx

    graph = onnx.load(str(onnx_path), load_external_data=False).graph
    return any(tensor.data_type == onnx.TensorProto.UINT4 for tensor in graph.initializer)


def _parse(trt: Any, network: Any, log: Any, onnx_path: Path, backend: Backend) -> None:
    """Fill ``network`` from the file; its weights stay where they are until the build reads them."""
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx_path)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if any("Failed to import initializer" in error.desc() for error in errors) and _has_zero_points(onnx_path):
        raise ZeroPointsError(backend.name)
    # the parser appends a summary without a node; the first error with one is the cause
    error = next(
        (error for error in errors if error.node_name() or error.node_operator()), errors[0] if errors else None
    )
    raise GraphParseError(
        onnx_path,
        backend=backend.name,
        node=error.node_name() if error else "",
        operator=error.node_operator() if error else "",
        reason=one_line(error.desc() if error else log.reason()),
    )


def allow_plain_attention(trt: Any, network: Any) -> int:
    """Let attention become plain kernels where no fused one fits; return the number of attentions.

    Without it the builder fails on float32 ("Attention operation was not supported by a dedicated kernel"). Where a
    fused kernel fits, it is still used: TensorRT's Python API, ``IAttention.decomposable``. TensorRT-RTX 1.7.1 fails on
    float16 heads whose size is no multiple of 8, with and without it.
    """
    if not hasattr(trt, "IAttentionInputLayer"):  # before TensorRT 10.14 attention is made of plain operators anyway
        return 0
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    inputs = [layer for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]
    for layer in inputs:
        layer.__class__ = trt.IAttentionInputLayer  # get_layer returns the base class
        layer.attention.decomposable = True
    return len(inputs)


def _fill_profile(trt_profile: Any, network: Any, profile: Profile, form: EngineForm) -> Any:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        trt_profile.set_shape(tensor.name, *form.input_ranges(tensor.name, tuple(tensor.shape), profile))
    return trt_profile


def _make_logger(trt: Any, report: Reporter) -> Any:
    """Return a logger that turns warnings into notes and keeps errors for the message of the failure."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base comes from the backend chosen at run time
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []
            self._seen: set[str] = set()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING and message not in self._seen:
                self._seen.add(message)
                if not any(part in message for part in HARMLESS_WARNINGS):
                    report.note(one_line(message))

        def reason(self) -> str:
            """Return the first error: those after it follow from it."""
            return one_line(self._errors[0]) if self._errors else "it gave no reason"

    return Logger()


@contextmanager
def elapsed_time(report: Reporter, doing: str, *, interval: float = 1.0) -> Iterator[None]:
    """Report every ``interval`` seconds how long the body has been running.

    There is no percentage: TensorRT's progress monitor fires during about 1 % of a build
    (https://github.com/rerun-io/examples-monorepo/issues/90).
    """
    began = report.seconds
    finished = threading.Event()

    def beat() -> None:
        while not finished.wait(interval):
            report.emit("progress", f"{doing}, {report.seconds - began:.0f} s")

    thread = threading.Thread(target=beat, name="elapsed-time", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _write_atomically(out: Path, content: Any) -> None:
    """Write bytes (anything with the buffer protocol) so that ``out`` is whole or absent."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
