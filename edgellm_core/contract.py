"""What a plugin subclasses and returns. Importing this module loads neither torch, transformers nor onnx.

Hooks (``hookspecs.py``) register classes; the classes here behave. Everything that is special about a model family
lives in its ``ModelFamily`` subclass; every method has a default that is right for a plain decoder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from edgellm_core.errors import NoFormError, PluginError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.gguf_form import GgufForm
    from edgellm_core.quantization.formats import LinearFormat
    from edgellm_core.quantization.model import QuantizedModel
    from edgellm_core.surgery.rule import Rule
    from edgellm_core.weights.recipe import Recipe

CONTRACT_VERSION: Final = 1
"""Version of the classes in this module; a plugin that asks for another one is named and skipped."""

CORE_CALIBRATION_DATA: Final = ("builtin", "cnn_dailymail", "wikitext")
"""Values of ``--calib-data`` that belong to edgellm; no plugin can take one."""

ModuleForward = Callable[..., Any]
"""Replaces ``torch.nn.Module.forward`` while tracing: ``(module, *args, **kwargs)`` → what the original returns."""

Smoothing = Literal["none", "smoothquant", "awq"]
"""How the inputs of a layer are scaled before its weights are rounded; the scales fold into what makes the inputs."""

Rounding = Literal["nearest", "compensated"]
"""Whether each weight goes to its nearest number, or later weights take up the errors of earlier ones (GPTQ)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionAttributes:
    """What one attention call does besides softmax(q·kᵀ)·v.

    Attributes:
        scale: factor on q·kᵀ.
        softcap: cap of the logits, ``tanh(x / softcap) * softcap``, applied before the mask; 0 for none.
    """

    scale: float
    softcap: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphDimensions:
    """Counts that the traced program predicts for its graph, taken before conversion, stamping and surgery.

    Rules compare their match counts with them.

    Attributes:
        layers: decoder layers.
        attentions: attention calls in one forward.
        norms: norm modules that a probe recognised, by kind: ``rms`` or ``layer``.
        ropes: rotations of a query or key in one forward.
        linears: calls of linear modules in one forward.
        appends: cache tensors that grow in one forward (two a layer with a KV cache).
    """

    layers: int
    attentions: int
    norms: Mapping[str, int] = field(default_factory=dict)
    ropes: int = 0
    linears: int = 0
    appends: int = 0


class ModelFamily:
    """One model family: which checkpoints it claims, and what is special about them.

    Attributes:
        name: unique name, for ``--family`` and the registry.
        model_types: values of config.json's ``model_type`` that it claims, exactly.
        architectures: values of config.json's ``architectures`` that it claims, exactly. They decide where both are
            present and differ.
        modeled_as: transformers' ``model_type`` whose modeling code computes the family, for checkpoints whose own
            ``model_type`` transformers does not know; empty for the first of ``model_types``. A family that brings
            its own modeling code needs none; see ``register_model``.
        transformers: range of transformers versions that it supports (PEP 440 specifier).
        contract: version of this contract that it was written for.
        ignored_tensors: regular expressions (full match) of checkpoint tensors that the graph does not need.
        harmless_config_keys: keys of config.json that transformers does not read for this family and that are known
            not to change the math.
        gguf_forms: how GGUF files of this family are written; empty where none is read.
    """

    name: ClassVar[str] = ""
    model_types: ClassVar[tuple[str, ...]] = ()
    architectures: ClassVar[tuple[str, ...]] = ()
    modeled_as: ClassVar[str] = ""
    transformers: ClassVar[str] = ">=5.0"
    contract: ClassVar[int] = CONTRACT_VERSION
    ignored_tensors: ClassVar[tuple[str, ...]] = (r".*\.rotary_emb\.inv_freq",)
    harmless_config_keys: ClassVar[tuple[str, ...]] = ()
    gguf_forms: ClassVar[tuple[GgufForm, ...]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Refuse a malformed class where it is written, not where it is used."""
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.name, str) or not cls.name:
            msg = f"ModelFamily {cls.__qualname__} in {cls.__module__} needs a name. Set the class attribute 'name'."
            raise PluginError(msg)
        for attribute in ("model_types", "architectures", "ignored_tensors", "harmless_config_keys"):
            value = getattr(cls, attribute)
            if not isinstance(value, tuple) or not all(isinstance(item, str) and item for item in value):
                msg = (
                    f"Family {cls.name!r}: {attribute} must be a tuple of non-empty strings; got {value!r}. "
                    f"Write ({'...'!r},) with a comma."
                )
                raise PluginError(msg)

    def register_model(self) -> None:
        """Register modeling code of the family's own (``AutoConfig.register``, ``AutoModelForCausalLM.register``).

        Called once a process, before a config of the family is loaded. Import transformers in here, not at the top.
        """

    def module_forwards(self) -> Mapping[str, ModuleForward]:
        """Return layer wrappers: class name of a module → forward that replaces it while tracing.

        A wrapper that takes one tensor is probed on random numbers against the forward that it replaces. A name that
        neither the model nor its modeling file has is an error.
        """
        return {}

    def attention_attributes(self, module: Any, attributes: AttentionAttributes) -> AttentionAttributes:
        """Return the attributes of one attention call; ``attributes`` is what the model passed.

        Args:
            module: the attention module (``torch.nn.Module``) that makes the call.
            attributes: scale and softcap as the model gave them.
        """
        del module
        return attributes

    def prepare_config(self, config: Any) -> None:
        """Change a transformers config in place before the model is built from it; by default nothing."""

    def complete_gguf_config(self, config: dict[str, Any], take: Callable[[str], Any]) -> None:
        """Change in place what was read out of a GGUF file's metadata, where no table can say it; by default nothing.

        Args:
            config: contents of config.json.
            take: returns the value of a metadata key behind ``<architecture>.``, or None; the key is accounted for.
        """

    def rules(self) -> Sequence[Rule]:
        """Return surgery rules that only this family needs; they run before the target's."""
        return ()

    def chat_template(self) -> str | None:
        """Return the Jinja chat template for checkpoints without one: the folder's ``chat_template.jinja``."""
        path = self.folder() / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def tiny_config(self) -> Mapping[str, Any]:
        """Return a config.json of two to four small layers that exercises every special path of the family.

        Raises:
            PluginError: the family has none.
        """
        msg = f"Family {self.name!r} has no tiny_config(); return a small config.json from it."
        raise PluginError(msg)

    @classmethod
    def folder(cls) -> Path:
        """Return the folder that holds the family's module and data files."""
        return Path(inspect.getfile(cls)).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedForm:
    """How a target holds what is quantized.

    Attributes:
        rules: rules that write it; they run before the target's lowering rules, with exact counts.
        recipes: initializers that the rules use, each from the quantized tensors of the checkpoint.
    """

    rules: Sequence[Rule] = ()
    recipes: Sequence[Recipe] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A parameter that lies in a file of its own beside the graph.

    Attributes:
        parameter: its name.
        factor: what its numbers, rounded to its type, are multiplied with; the products are rounded again.
    """

    parameter: str
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ImportedForm:
    """How a target takes a graph that another exporter made.

    Attributes:
        rules: rules that lower what was found in it.
        keeps_interface: whether inputs and outputs stay those of the file; otherwise ``Target.finish`` writes them.
    """

    rules: Sequence[Rule] = ()
    keeps_interface: bool = True


class Target:
    """A form of graph and files that some runtime takes.

    Attributes:
        name: value of ``--target``.
        opset: ONNX opset of the default domain.
        domains: operator domains that may remain in the lowered graph; ``""`` is ONNX's own.
        session: ``module:Class`` that runs a graph's file on the CPU for ``edgellm run``; like the default,
            ``edgellm_core.runtime.session.DecoderSession``.
        graph_session: ``module:Class`` that runs a graph held in memory for the parity gate; like the default,
            ``edgellm_core.verification.session.GraphSession``.
        precisions: values of ``--precision`` for what is not quantized; empty for all.
        schemes: values of ``--precision`` that quantize and that it takes; None for all.
        kv_caches: values of ``--kv-cache`` that it takes; None for all.
        exact_cache_scales: whether scales of keys and values stay float32; else they take the type of the graph.
        files_check: ``module:function`` that compares what the runtime computes from the files beside a graph with the
            original; called with their folder, the checkpoint and its family, it returns sentences that a user has to
            know. Empty where the runtime computes nothing.
        engine_form: ``module:Class`` that says how an engine is made of the graph; like the default,
            ``edgellm_core.engine.form.EngineForm``.
        builds_engine: whether ``--engine auto`` builds one; without it the runtime's own builder does, on the device.
        imported_check: ``module:function`` that compares a graph of another exporter with what ``edgellm surgery``
            made of it, like the default, ``edgellm_core.pipeline.foreign.check.compare``.
        takes_imported: whether it takes graphs of other exporters at all.
        score_types: values of ``--attention-scores`` that it takes besides ``auto``.
        attention_scores: the value that this build asked for; ``auto`` leaves scores in the type of the graph.
    """

    name: ClassVar[str] = ""
    opset: ClassVar[int] = 23
    domains: ClassVar[tuple[str, ...]] = ("",)
    session: ClassVar[str] = "edgellm_core.runtime.session:DecoderSession"
    graph_session: ClassVar[str] = "edgellm_core.verification.session:GraphSession"
    precisions: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[str, ...] | None] = None
    kv_caches: ClassVar[tuple[str, ...] | None] = None
    exact_cache_scales: ClassVar[bool] = False
    files_check: ClassVar[str] = ""
    engine_form: ClassVar[str] = "edgellm_core.engine.form:EngineForm"
    builds_engine: ClassVar[bool] = True
    imported_check: ClassVar[str] = "edgellm_core.pipeline.foreign.check:compare"
    takes_imported: ClassVar[bool] = False
    score_types: ClassVar[tuple[str, ...]] = ()
    attention_scores: str = "auto"

    def rules(self) -> Sequence[Rule]:
        """Return the rules that lower the semantic operators to what the runtime takes."""
        raise NotImplementedError

    def imported(self, graph: gs.Graph) -> ImportedForm:
        """Return how the target takes a graph of another exporter (``edgellm surgery``); by default without rules.

        Args:
            graph: what pattern rules left: semantic operators where they found any; may be changed in place.

        Raises:
            EdgellmError: naming what can't be expressed.
        """
        del graph
        return ImportedForm()

    def check(self, checkpoint: Checkpoint, family: ModelFamily) -> None:
        """Refuse, before anything long, a checkpoint that the runtime can't take; by default nothing.

        Raises:
            UserError: naming what it lacks.
        """

    def finish(self, graph: gs.Graph) -> Mapping[str, Table]:
        """Give the lowered graph the inputs and outputs of the runtime; by default it keeps its own.

        Args:
            graph: changed in place.

        Returns:
            Parameters that lie in files of their own beside the graph, by path.

        Raises:
            EdgellmError: something in it can't be expressed.
        """
        del graph
        return {}

    def write_files(self, model: onnx.ModelProto, checkpoint: Checkpoint, family: ModelFamily, folder: Path) -> None:
        """Change or add files beside the graph, after those of the checkpoint were copied; by default nothing.

        Args:
            model: the bound graph without its data.
            checkpoint: the original.
            family: its family.
            folder: folder of the graph.

        Raises:
            EdgellmError: the runtime can't be told what it needs to know.
        """

    def runtime_notes(self, runtime: RuntimeRecord) -> Sequence[str]:
        """Say what of the model's rules for generation the target's runtime does not do; by default nothing.

        Args:
            runtime: what ``edgellm run`` does.
        """
        del runtime
        return ()

    def adapt_tokenizer(self, folder: Path) -> None:
        """Say what the runtime would not read of a tokenizer in words that it reads; by default nothing.

        Args:
            folder: folder of the graph, with the tokenizer's files, which were compared with the original's.
        """

    def engine_note(self, out: Path) -> str:
        """Say who builds an engine where ``builds_engine`` is false, as the rest of a sentence.

        Args:
            out: the bundle.
        """
        del out
        return f"target {self.name!r} has none."

    def quantized(self, model: QuantizedModel) -> QuantizedForm:
        """Return how the runtime takes quantized layers and caches; by default it takes none.

        Args:
            model: what is quantized; may be empty.

        Raises:
            NoFormError: naming the formats that it does not take.
        """
        lacking = {f"{linear.form.weight} weights" for linear in model.linears.values()}
        lacking |= {"an fp8 KV cache"} if model.caches else set()
        if lacking:
            raise NoFormError(self.name, lacking)
        return QuantizedForm()


class QuantizationScheme:
    """A way to round the linear layers of a model, for ``--precision`` and ``--lm-head``.

    Attributes:
        name: value of ``--precision``.
        smoothing: what scales the inputs before the weights are rounded.
        rounding: how weights are rounded where ``--rounding`` does not say.
        block_sizes: numbers of inputs that may share one scale, the preferred one first; empty without blocks.
        compute_capability: least 10 * major + minor of a GPU that computes with it; 0 for any.
    """

    name: ClassVar[str] = ""
    smoothing: ClassVar[Smoothing] = "none"
    rounding: ClassVar[Rounding] = "nearest"
    block_sizes: ClassVar[tuple[int, ...]] = ()
    compute_capability: ClassVar[int] = 0

    def linear_format(self, block_size: int) -> LinearFormat:
        """Return how a linear layer is stored; one of the forms that ``quantization.formats.ALGORITHMS`` names.

        Args:
            block_size: one of ``block_sizes``; 0 without blocks.
        """
        raise NotImplementedError


class CalibrationData:
    """Text that a quantization can be calibrated on.

    Attributes:
        name: value of ``--calib-data``.
    """

    name: ClassVar[str] = ""

    def texts(self) -> Iterator[str | Sequence[Mapping[str, str]]]:
        """Yield texts, each plain or as the messages of a conversation (``role`` and ``content``).

        They are read one by one until there are enough tokens, so a long text may come from a slow place.
        """
        raise NotImplementedError
