"""The embedding table holds a factor that follows the lookup at once; any other product stays in the graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file

import edgellm_core
from edgellm_core.contract import Table
from edgellm_core.targets.edge_llm.embedding import take_embedding
from edgellm_core.targets.edge_llm.errors import EmbeddingMissingError
from edgellm_core.verification.errors import VerificationFailedError
from edgellm_core.weights.errors import ScaledWeightOverflowError

WIDTH = 4
EMBEDDING = "model.embed_tokens.weight"


def _graph(*operands, op="Mul", ids="input_ids"):
    """A graph that looks tokens up, and multiplies the rows by each operand, one product beside the other."""
    table = gs.Variable("table", np.float16, [10, WIDTH])
    tokens = gs.Variable(ids, np.int64, ["batch", "seq"])
    rows = gs.Variable("rows", np.float16, ["batch", "seq", WIDTH])
    nodes = [gs.Node("Gather", "lookup", {"axis": 0}, [table, tokens], [rows])]
    outputs = []
    for number, operand in enumerate(operands):
        product = gs.Variable(f"product{number}", np.float16, ["batch", "seq", WIDTH])
        inputs = [rows, gs.Constant(f"factor{number}", np.array(operand, np.float16))]
        nodes.append(gs.Node(op, f"scale{number}", {}, inputs if number else inputs[::-1], [product]))
        outputs.append(gs.Variable(f"out{number}", np.float16, ["batch", "seq", WIDTH]))
        nodes.append(gs.Node("Neg", f"neg{number}", {}, [product], [outputs[-1]]))
    return gs.Graph(nodes=nodes, inputs=[tokens], outputs=outputs, opset=24)


@pytest.mark.parametrize(
    ("graph", "factor", "reader"),
    [
        (_graph(9.8), float(np.float16(9.8)), "neg0"),
        (_graph([[3.0]]), 3.0, "neg0"),
        (_graph([1.0, 2.0, 3.0, 4.0]), 1.0, "scale0"),
        (_graph(2.0, op="Add"), 1.0, "scale0"),
        (_graph(2.0, 3.0), 1.0, "scale0"),
    ],
    ids=["number", "one element", "by channel", "sum", "two readers"],
)
def test_only_one_number_that_follows_at_once_is_folded(graph, factor, reader):
    assert take_embedding(graph) == Table(parameter="table", factor=factor)
    first = next(node for node in graph.nodes if node.name == reader)
    embeds = next(tensor for tensor in first.inputs if tensor.name == "inputs_embeds")
    assert (embeds.dtype, embeds.shape, embeds.inputs) == (np.float16, ["physical_tokens", WIDTH], [])


def test_a_graph_without_lookup_is_refused():
    with pytest.raises(EmbeddingMissingError, match="looks input_ids up in one table"):
        take_embedding(_graph(ids="position_ids"))


@pytest.mark.parametrize(("family", "factor"), [("gemma", 96**0.5), ("granite", 3.0)])
def test_the_table_holds_the_factor_and_the_tied_head_does_not(edge_llm, family, factor):
    built = edge_llm(family)
    stored = load_torch_file(built.checkpoint / "model.safetensors")[EMBEDDING].numpy().astype(np.float16)
    wanted = (stored.astype(np.float32) * np.float32(np.float16(factor))).astype(np.float16)
    assert np.array_equal(load_file(built.bundle.llm / "embedding.safetensors")["embedding"], wanted)
    assert not [node for node in built.model.graph.node if node.op_type == "Mul" and "inputs_embeds" in node.input]
    whole = onnx.load(str(built.bundle.model_path))
    head = next(tensor for tensor in whole.graph.initializer if tensor.name == EMBEDDING)
    assert np.array_equal(onnx.numpy_helper.to_array(head), stored)


def test_a_table_without_the_factor_is_caught(edge_llm, verify_copy):
    def damage(llm):
        table = load_file(llm / "embedding.safetensors")["embedding"]
        save_file({"embedding": table / np.float16(3)}, llm / "embedding.safetensors")

    with pytest.raises(VerificationFailedError, match="The first part that diverges is the embedding"):
        verify_copy(edge_llm("granite"), damage)


def test_a_number_that_is_too_large_with_the_factor_is_refused(edge_llm, tmp_path):
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in edge_llm("granite").checkpoint.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    tensors = load_file(copied / "model.safetensors")
    tensors[EMBEDDING][1, 5] = 30000
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    match = rf"'{EMBEDDING}' has the value 3\d{{4}} at flat index 101; F16 can't hold it times 3, a factor of the model"
    with pytest.raises(ScaledWeightOverflowError, match=match):
        edgellm_core.build(copied, tmp_path / "out", target="edge-llm", engine="none")


def test_a_quantized_checkpoint_is_compared_with_the_rounded_table(edge_llm, tmp_path):
    settings = {"calib_data": "builtin", "calib_samples": 4, "calib_length": 32}
    edgellm_core.quantize(edge_llm("gemma").checkpoint, tmp_path / "fp8", precision="fp8", **settings)
    bundle = edgellm_core.build(tmp_path / "fp8", tmp_path / "out", target="edge-llm", engine="none")
    assert bundle.manifest.verification.max_rel_err < 5e-6
