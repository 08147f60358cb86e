"""The result of a trace: a weightless graph of one layer per kind, and how the whole model is stamped from it.

Nothing here imports torch or transformers, so that a cached template is used without them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.contract import GraphDimensions
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.limits import OWN_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterSpec:
    """A parameter of the model: what the graph expects of one checkpoint tensor.

    Attributes:
        element_type: safetensors' spelling, for example ``F16``.
        shape: its dimensions.
    """

    element_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reread:
    """What transformers' ``generate`` does with its cache at one length.

    Attributes:
        at: number of tokens, with the one that was just chosen, at which the cache is dropped.
        loses_context: whether only the last token is read then, without what came before: a defect of transformers'
            code (Phi-4-multimodal in 5.23 forgets to pass the whole sequence on).
    """

    at: int
    loses_context: bool = False


_STATE: Final = re.compile(r"(past_key_values|past_state|present|present_state)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class LayerNaming:
    """Which decoder layer the name of a parameter or state speaks of, and its name for another layer.

    Attributes:
        layers: path of the decoder layers in parameter names; empty if unknown.
    """

    layers: str

    def layer(self, name: str) -> int | None:
        """Return the layer whose parameter or state this is, or None."""
        state = _STATE.fullmatch(name)
        if state:
            return int(state[2])
        index, _, rest = name.removeprefix(self.layers + ".").partition(".")
        inside = bool(self.layers) and name.startswith(self.layers + ".") and bool(rest) and index.isdigit()
        return int(index) if inside else None

    def rename(self, name: str, layer: int) -> str:
        """Return the same parameter's or state's name in another layer."""
        state = _STATE.fullmatch(name)
        if state:
            return f"{state[1]}.{layer}.{state[3]}"
        rest = name.removeprefix(self.layers + ".").partition(".")[2]
        return f"{self.layers}.{layer}.{rest}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A traced model before stamping.

    Attributes:
        model: the graph; its parameters are graph inputs, after the real ones.
        layers: path of the decoder layers in parameter names, for example ``model.layers``; empty if unknown.
        representative_of: for each decoder layer, the layer that it is stamped from (itself if it was traced).
        parameters: parameters of the graph by name.
        sources: parameter name → the checkpoint tensors that make it, joined along axis 0, for the whole model; only
            parameters that do not have a tensor of their own name.
        tied: parameter name → the name under which the graph holds the same storage.
        left_out: tensors of the checkpoint that transformers knowingly leaves out, and why.
        calls: operators by name: ``(in layers, by representative; outside)`` counts recorded while tracing.
        reread: where ``generate`` drops its cache; None where it never does.
    """

    model: onnx.ModelProto
    layers: str
    representative_of: tuple[int, ...]
    parameters: Mapping[str, ParameterSpec]
    sources: Mapping[str, tuple[str, ...]]
    tied: Mapping[str, str]
    left_out: Mapping[str, str]
    calls: Mapping[str, Mapping[str, int]]
    reread: Reread | None = None

    @property
    def is_stamped(self) -> bool:
        """Say whether some layer is stamped from another one."""
        return any(layer != source for layer, source in enumerate(self.representative_of))

    def stamped_parameters(self) -> dict[str, ParameterSpec]:
        """Return the parameters of the whole model: each layer has those of its representative."""
        naming = LayerNaming(self.layers)
        stamped: dict[str, ParameterSpec] = {}
        for name, spec in self.parameters.items():
            source = naming.layer(name)
            if source is None:
                stamped[name] = spec
                continue
            copies = [layer for layer, of in enumerate(self.representative_of) if of == source]
            stamped.update((naming.rename(name, layer), spec) for layer in copies)
        return stamped

    def dimensions(self) -> GraphDimensions:
        """Return what the stamped graph must contain, from the calls that the model made."""

        def total(operator: str) -> int:
            calls = self.calls.get(operator, {})
            stamped = sum(calls.get(str(source), 0) for source in self.representative_of)
            return stamped + calls.get("outside", 0)

        return GraphDimensions(
            layers=len(self.representative_of),
            attentions=total("Attention"),
            norms={"rms": total("RMSNorm"), "layer": total("LayerNorm")},
            ropes=total("Rotary"),
            linears=total("Linear"),
            appends=total("Append"),
        )

    def save(self, directory: Path) -> None:
        """Write ``template.onnx`` and ``template.json`` into an existing directory."""
        (directory / "template.onnx").write_bytes(self.model.SerializeToString(deterministic=True))
        fields: dict[str, Any] = {
            "layers": self.layers,
            "representative_of": self.representative_of,
            "parameters": {name: dataclasses.asdict(spec) for name, spec in self.parameters.items()},
            "sources": dict(self.sources),
            "tied": dict(self.tied),
            "left_out": dict(self.left_out),
            "calls": {operator: dict(counts) for operator, counts in self.calls.items()},
            "reread": dataclasses.asdict(self.reread) if self.reread else None,
        }
        (directory / "template.json").write_text(json.dumps(fields), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Template:
        """Read what ``save`` wrote."""
        import onnx

        fields = read_json_object(directory / "template.json", OWN_FILE)
        return cls(
            model=onnx.load_model_from_string((directory / "template.onnx").read_bytes()),
            layers=fields["layers"],
            representative_of=tuple(fields["representative_of"]),
            parameters={
                name: ParameterSpec(element_type=spec["element_type"], shape=tuple(spec["shape"]))
                for name, spec in fields["parameters"].items()
            },
            sources={name: tuple(sources) for name, sources in fields["sources"].items()},
            tied=fields["tied"],
            left_out=fields["left_out"],
            calls=fields["calls"],
            reread=Reread(**fields["reread"]) if fields["reread"] else None,
        )
