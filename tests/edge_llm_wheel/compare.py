"""Differences between two exports of one checkpoint for TensorRT-Edge-LLM: everything that a runtime reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from safetensors import safe_open

from tests.edge_llm_wheel.graph import PLUGIN_DOMAIN, ROUNDING_DOMAIN, Graph, attributes, described
from tests.edge_llm_wheel.weights import exported_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.edge_llm_wheel.weights import Weights

Category = Literal["opset", "input", "output", "plugin", "config", "file", "weight", "rounding"]

ROUNDING: Final = "rounding"
"""A float that differs by at most one unit in its last place of float16, or of the narrower type."""

FILES: Final = (
    "config.json",
    "embedding.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        category: what differs.
        subject: name of the input, node, key, file or weight.
        ours: what the first export has.
        theirs: what the second one has.
    """

    category: Category
    subject: str
    ours: object
    theirs: object

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.category} {self.subject}: {self.ours} instead of {self.theirs}"


def compare_exports(ours: Path, theirs: Path) -> list[Difference]:
    """Return what differs; nothing for exports that a runtime can't tell apart.

    Keys of config.json that only the first has are no difference: a runtime reads those that it knows.

    Args:
        ours: folder with ``model.onnx`` and the files next to it.
        theirs: the same of the other exporter, which is the specification.
    """
    first, second = Graph(ours / "model.onnx"), Graph(theirs / "model.onnx")
    return [
        *compare_interfaces(first, second),
        *compare_plugins(first, second),
        *compare_rounding(first, second),
        *compare_configs(read_config(ours), read_config(theirs)),
        *compare_files(ours, theirs),
        *compare_weights(exported_weights(first), exported_weights(second)),
    ]


def compare_interfaces(ours: Graph, theirs: Graph) -> Iterator[Difference]:
    """Yield differences of operator sets, and of inputs and outputs, which come in one order."""
    first, second = ({entry.domain: entry.version for entry in graph.model.opset_import} for graph in (ours, theirs))
    for domain in sorted(first.keys() | second.keys()):
        if first.get(domain) != second.get(domain):
            yield Difference("opset", domain or "ai.onnx", first.get(domain), second.get(domain))
    for category, attribute in (("input", "input"), ("output", "output")):
        values = ([described(value) for value in getattr(graph.model.graph, attribute)] for graph in (ours, theirs))
        for place, (own, other) in enumerate(zip_longest(*values)):
            if own != other:
                yield Difference(category, f"{place}", own, other)  # type: ignore[arg-type]


def compare_plugins(ours: Graph, theirs: Graph) -> Iterator[Difference]:
    """Yield differences of the nodes that are not standard operators: their number, attributes and inputs."""
    first, second = plugin_nodes(ours), plugin_nodes(theirs)
    for operator in sorted(first.keys() | second.keys()):
        nodes, others = first.get(operator, []), second.get(operator, [])
        if len(nodes) != len(others):
            yield Difference("plugin", f"{operator} nodes", len(nodes), len(others))
            continue
        for place, (own, other) in enumerate(zip(nodes, others, strict=True)):
            for name in sorted(own.keys() | other.keys()):
                if own.get(name) != other.get(name):
                    yield Difference("plugin", f"{operator} {place} {name}", own.get(name), other.get(name))


def compare_rounding(ours: Graph, theirs: Graph) -> Iterator[Difference]:
    """Yield operators of TensorRT's own that are not used with the same attributes.

    Their number does not matter: two layers may share a rounded input or round it twice. What each layer rounds with is
    among the weights.
    """
    first, second = rounding_forms(ours), rounding_forms(theirs)
    for operator in sorted(first.keys() | second.keys()):
        if first.get(operator) != second.get(operator):
            yield Difference("plugin", operator, first.get(operator), second.get(operator))


def rounding_forms(graph: Graph) -> dict[str, list[str]]:
    """Return the different attributes of TensorRT's own operators, by operator."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.domain == ROUNDING_DOMAIN:
            texts = found.setdefault(f"{node.domain}::{node.op_type}", set())
            texts.add(json.dumps(attributes(node), sort_keys=True))
    return {operator: sorted(texts) for operator, texts in found.items()}


def plugin_nodes(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """Return attributes of each plugin node, and its inputs by meaning, by operator."""
    found: dict[str, list[dict[str, Any]]] = {}
    for node in graph.nodes:
        if node.domain == PLUGIN_DOMAIN:
            meanings = [meaning(graph, name) for name in node.input]
            outputs = [name if is_output(graph, name) else "computed" for name in node.output]
            facts = {**attributes(node), "inputs": meanings, "outputs": outputs}
            found.setdefault(f"{node.domain}::{node.op_type}", []).append(facts)
    return found


def meaning(graph: Graph, name: str) -> str:
    """Return what an input of a node is: the name of a graph input, the kind of a constant, or ``computed``."""
    if graph.is_input(name):
        return name
    return graph.kind(name) if graph.is_constant(name) else "computed" if name else "nothing"


def is_output(graph: Graph, name: str) -> bool:
    """Say whether a value is an output of the graph."""
    return any(value.name == name for value in graph.model.graph.output)


def read_config(directory: Path) -> dict[str, Any]:
    """Return the config of an export."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def compare_configs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the keys of the second config that the first has not, or has with another value."""
    for name, value in theirs.items():
        if name not in ours or ours[name] != value:
            yield Difference("config", name, ours.get(name, "nothing"), value)


def compare_files(ours: Path, theirs: Path) -> Iterator[Difference]:
    """Yield files that are missing, another chat template, and another embedding table."""
    for name in FILES:
        if (theirs / name).is_file() and not (ours / name).is_file():
            yield Difference("file", name, "nothing", "a file")
    templates = [path / "chat_template.jinja" for path in (ours, theirs)]
    texts = [path.read_text(encoding="utf-8") for path in templates if path.is_file()]
    if len(texts) == 2 and texts[0] != texts[1]:
        yield Difference("file", "chat_template.jinja", texts[0][:60], texts[1][:60])
    tables = [read_embedding(path) for path in (ours, theirs) if (path / "embedding.safetensors").is_file()]
    if len(tables) == 2:
        yield from compare_weights({"embedding": tables[0]}, {"embedding": tables[1]})


def read_embedding(directory: Path) -> dict[str, np.ndarray]:
    """Return the tensors of an embedding file."""
    with safe_open(directory / "embedding.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for name, value in tensors.items()
    }


def compare_weights(ours: Weights, theirs: Weights) -> Iterator[Difference]:
    """Yield roles and parts that one of them lacks, and arrays that differ."""
    for role in sorted(ours.keys() | theirs.keys()):
        first, second = ours.get(role, {}), theirs.get(role, {})
        for part in sorted(first.keys() | second.keys()):
            own, other = first.get(part), second.get(part)
            if own is None or other is None or own.shape != other.shape:
                yield Difference("weight", f"{role} {part}", kind_of(own), kind_of(other))
            else:
                yield from compare_arrays(f"{role} {part}", own, other)


def kind_of(array: np.ndarray | None) -> str:
    """Return element type and shape."""
    return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"


def compare_arrays(subject: str, ours: np.ndarray, theirs: np.ndarray) -> Iterator[Difference]:
    """Yield the difference of two arrays of one shape: bit by bit, or in units of the last place of float16."""
    if ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes():
        return
    if ours.dtype.kind != "f" or theirs.dtype.kind != "f":
        count = int((ours != theirs).sum())
        yield Difference("weight", subject, f"{count} other numbers", f"{ours.size} of {kind_of(theirs)}")
        return
    steps = int(np.abs(places(ours) - places(theirs)).max())
    types = f"{kind_of(ours)}, {steps} last places of float16 off"
    yield Difference(ROUNDING if steps <= 1 else "weight", subject, types, kind_of(theirs))


def places(array: np.ndarray) -> np.ndarray:
    """Return the place of each number, rounded to float16, among all numbers of float16."""
    with np.errstate(over="ignore"):
        pattern = array.astype(np.float16).view(np.int16).astype(np.int64)
    return np.where(pattern < 0, -(pattern & 0x7FFF), pattern)
