"""What a check gets: its family or model, and the family's tiny model on its way from config to bound graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgellm_core.events import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.host import PluginHost, Selection
    from edgellm_core.pipeline.export import LoweredGraph
    from edgellm_core.testing.kit.plan import CaseKey, Plan
    from edgellm_core.tracing.template import Template
    from edgellm_core.verification.gate import VerificationResult

T = TypeVar("T")


def _say_nothing(_text: str) -> None:
    """Drop a note; the fixture puts something better in its place."""


@dataclass(kw_only=True)
class Case:
    """One check on one family or model.

    Attributes:
        key: which.
        plan: the run.
        tiny: the family's tiny model, shared by its checks.
        tell: takes a sentence that the reader of the result should know.
    """

    key: CaseKey
    plan: Plan
    tiny: TinyModel
    tell: Callable[[str], None] = _say_nothing

    @property
    def family(self) -> ModelFamily:
        """The family."""
        return self.tiny.selection.family


class step(Generic[T]):  # noqa: N801  # used like functools.cached_property
    """A property that is computed once, and whose failure is raised again instead of being repeated."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__
        self._name = f"_{compute.__name__}"

    def __get__(self, owner: Any, _type: type) -> T:
        """Return what the first call returned, or raise what it raised."""
        if self._name not in vars(owner):
            try:
                vars(owner)[self._name] = (self._compute(owner), None)
            except Exception as error:  # noqa: BLE001  # whatever it was, the next check of the family gets it too
                vars(owner)[self._name] = (None, error)
        value, failure = vars(owner)[self._name]
        if failure is not None:
            raise failure
        found: T = value
        return found


class TinyModel:
    """A random model of a family's ``tiny_config`` in one precision; each step runs when a check first needs it.

    Attributes:
        host: the plugins.
        selection: family and plugin.
        precision: of the graph.
        folder: where checkpoint and graph go.
        changed: how the config differs from the family's own, as a sentence; empty where it does not.
    """

    def __init__(
        self,
        host: PluginHost,
        family: str,
        folder: Path,
        *,
        precision: str = "fp32",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember what to build.

        Args:
            host: the plugins.
            family: name of the family.
            folder: where checkpoint and graph go.
            precision: of the graph.
            config: instead of the family's own tiny config.
        """
        self.host = host
        self.precision = precision
        self.folder = folder
        self.selection: Selection = host.select({}, forced=family)
        self.changed = ""
        self._given = config

    @step
    def config(self) -> Mapping[str, Any]:
        """Contents of config.json."""
        return self._given if self._given is not None else self.selection.family.tiny_config()

    @step
    def checkpoint(self) -> Checkpoint:
        """The random float32 checkpoint; without a chat template where the family brings one."""
        from edgellm_core.checkpoint.source import open_checkpoint
        from edgellm_core.registry import ModelRegistry
        from edgellm_core.testing.checkpoints import write_family_checkpoint

        directory = write_family_checkpoint(self.folder / "checkpoint", self.selection.family, config=self.config)
        return open_checkpoint(str(directory), registry=ModelRegistry.load(), report=self.report)

    @step
    def template(self) -> Template:
        """The trace of one layer a kind."""
        return self._trace(full_depth=False)

    @step
    def full_template(self) -> Template:
        """The trace of every layer."""
        return self._trace(full_depth=True)

    @step
    def target(self) -> Target:
        """The target that graphs are lowered to."""
        from edgellm_core.targets import find_target

        return find_target("onnx", self.host.targets())

    @step
    def lowered(self) -> LoweredGraph:
        """The stamped graph in the target's operators, without weights."""
        from edgellm_core.pipeline.export import lower

        return lower(self.template, self.checkpoint, self.selection, self.target, self.host, self.precision)

    @step
    def model_path(self) -> Path:
        """The bound graph, with config, tokenizer and chat template beside it."""
        import copy
        import dataclasses

        from edgellm_core.pipeline.export import MODEL_FILE, bind_graph
        from edgellm_core.tokenization.writing import write_tokenizer

        folder = self.folder / self.precision
        folder.mkdir()
        write_tokenizer(self.checkpoint, self.selection.family, folder, self.report)
        model = copy.deepcopy(self.lowered.model)  # binding attaches weights to it
        lowered = dataclasses.replace(self.lowered, model=model)
        bind_graph(lowered, self.template, self.checkpoint, self.selection, folder, self.report)
        return folder / MODEL_FILE

    @step
    def comparison(self) -> VerificationResult:
        """What the parity gate said."""
        from edgellm_core.verification.gate import verify_graph

        return verify_graph(
            self.model_path,
            self.checkpoint,
            self.selection.family,
            precision=self.precision,
            report=self.report,
        )

    @property
    def report(self) -> Reporter:
        """A reporter that nobody listens to."""
        return Reporter("conformance")

    def _trace(self, *, full_depth: bool) -> Template:
        from edgellm_core.tracing.configuration import load_config
        from edgellm_core.tracing.trace import trace

        directory, family = self.checkpoint.directory, self.selection.family
        config = load_config(directory, self.checkpoint.config, family, self.host.nearest)
        return trace(
            config,
            family,
            self.precision,
            full_depth=full_depth,
            report=self.report,
            tensor_names=self.checkpoint.tensors,
        )
