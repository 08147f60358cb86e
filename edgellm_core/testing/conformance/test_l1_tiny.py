"""Level 1: the family's tiny model on the CPU, in float32, from trace to parity with the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.testing.kit.check import check
from edgellm_core.testing.kit.skips import SkipReason, skip

if TYPE_CHECKING:
    import numpy as np

    from edgellm_core.testing.kit.case import Case, TinyModel
    from edgellm_core.verification.comparison import RowComparison

LEADING: Final = {
    "input_ids": ("INT64", ["batch", "seq"]),
    "attention_mask": ("INT64", ["batch", "past + seq"]),
    "position_ids": ("INT64", ["batch", "seq"]),
}
"""First inputs of target ``onnx``, in order: element type and symbols."""


@check(1)
def test_io_contract(edgellm_case: Case) -> None:
    """Names, order, element types and symbols of inputs and outputs are those of target onnx; onnx.checker agrees."""
    import onnx

    tiny = edgellm_case.tiny
    onnx.checker.check_model(str(tiny.model_path))
    graph = onnx.load(str(tiny.model_path), load_external_data=False).graph
    inputs, outputs = _described(graph.input), _described(graph.output)
    assert list(inputs.items())[:3] == list(LEADING.items())
    vocabulary = tiny.config.get("vocab_size")
    assert next(iter(outputs.items())) == ("logits", ("FLOAT", ["batch", "seq", vocabulary]))
    assert _states(list(inputs)[3:], outputs) == list(outputs)[1:]
    for name, (element_type, sizes) in list(inputs.items())[3:]:
        grown = outputs[_present(name)]
        assert element_type == grown[0] == "FLOAT", name
        assert sizes[0] == grown[1][0] == "batch", name
        if name.startswith("past_key_values."):
            assert sizes[2] == "past", (name, sizes)
            assert grown[1] == ["batch", sizes[1], "past + seq", sizes[3]], (name, grown)
        assert all(isinstance(size, int) and size > 0 for size in [*sizes[1:2], *sizes[3:]]), (name, sizes)


def _described(values: Any) -> dict[str, tuple[str, list[str | int]]]:
    """Return name → element type and dimensions, in the order of the graph."""
    import onnx

    return {
        value.name: (
            onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def _present(name: str) -> str:
    from edgellm_core.runtime.session import state_output

    return state_output(name)


def _states(inputs: list[str], outputs: Any) -> list[str]:
    """Return the outputs that the state inputs ask for, after checking that the layers ascend without gaps in pairs."""
    layers = [int(name.split(".")[1]) for name in inputs]
    assert layers == sorted(layers), inputs
    keys = [name for name in inputs if name.startswith("past_key_values.")]
    assert [name.rpartition(".")[2] for name in keys] == ["key", "value"] * (len(keys) // 2), inputs
    assert inputs, "the graph has no state"
    assert all(_present(name) in outputs for name in inputs), inputs
    return [_present(name) for name in inputs]


@check(1)
def test_rule_counts(edgellm_case: Case) -> None:
    """Each surgery rule applies as often as the model demands, each rule of the family at least once."""
    results = {result.rule: result for result in edgellm_case.tiny.lowered.rules}
    for result in results.values():
        assert result.applied in result.expected, f"{result.rule}: {result.applied}, expected {result.expected}"
    for rule in edgellm_case.family.rules():
        assert results[rule.name].applied, f"rule {rule.name!r} of the family never applies to its tiny model"


@check(1)
def test_rules_are_idempotent(edgellm_case: Case) -> None:
    """No rule matches anything in the graph that the rules have left."""
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rules import core_rules

    tiny, host = edgellm_case.tiny, edgellm_case.plan.host
    graph = gs.import_onnx(tiny.lowered.model)
    rules = [*core_rules(), *host.rules(), *edgellm_case.family.rules(), *tiny.target.rules()]
    again = [(rule.name, node.name) for rule in rules for node in graph.nodes if rule.match(node, graph) is True]
    assert not again


@check(1)
def test_parity_prefill(edgellm_case: Case) -> None:
    """Each prompt alone gives the original's logits."""
    _assert_parity(edgellm_case.tiny, "prompt alone", "prefill")


@check(1)
def test_parity_decode(edgellm_case: Case) -> None:
    """Greedy steps over the KV cache give the original's logits."""
    _assert_parity(edgellm_case.tiny, "prompt alone", "decode")


@check(1)
def test_parity_padding(edgellm_case: Case) -> None:
    """A batch of prompts of different lengths, padded on the left, gives the original's logits."""
    _assert_parity(edgellm_case.tiny, "padded batch", "")


@check(1)
def test_parity_chunked(edgellm_case: Case) -> None:
    """A prompt in two chunks, and steps after it, give the original's logits."""
    _assert_parity(edgellm_case.tiny, "chunked prompt", "")


def _assert_parity(tiny: TinyModel, case: str, step: str) -> None:
    result = tiny.comparison
    rows: list[RowComparison] = [row for row in result.rows if row.case == case and row.step.startswith(step)]
    assert rows, f"the gate compared nothing in {case!r} {step}"
    assert all(row.passes(result.tolerance) for row in rows)


@check(1)
def test_dynamic_shapes(edgellm_case: Case) -> None:
    """One graph takes any batch, new and cached tokens; tokens at once, in chunks or one by one give equal logits."""
    import numpy as np

    from edgellm_core.runtime.session import DecoderSession
    from edgellm_core.verification.tolerances import tolerance_of

    tiny = edgellm_case.tiny
    session = DecoderSession(tiny.model_path)
    vocabulary = int(tiny.config["vocab_size"])
    for batch, length in ((1, 5), (3, 12)):
        ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length))
        whole = _in_chunks(session, ids, [length])
        assert whole.shape == (batch, length, vocabulary)
        scale = np.abs(whole).max()
        for chunks in ([length - 3, 3], [1] * length):
            assert np.abs(_in_chunks(session, ids, chunks) - whole).max() <= tolerance_of("fp32") * scale, chunks


def _in_chunks(session: Any, ids: np.ndarray[Any, Any], chunks: list[int]) -> np.ndarray[Any, Any]:
    """Return the logits of all positions, computed chunk by chunk."""
    import numpy as np

    batch, past, logits = len(ids), 0, []
    states = session.initial_states(batch)
    for seq in chunks:
        positions = np.tile(np.arange(past, past + seq), (batch, 1))
        mask = np.ones((batch, past + seq), np.int64)
        found, states = session.run(ids[:, past : past + seq], mask, positions, states)
        logits.append(found)
        past += seq
    return np.concatenate(logits, axis=1)


@check(1)
def test_stamped_equals_full(edgellm_case: Case) -> None:
    """The graph that is stamped from one layer a kind computes what the graph computes that is traced whole."""
    from edgellm_core.tracing.stamping import graph_digest, stamp

    tiny = edgellm_case.tiny
    stamped, full = graph_digest(stamp(tiny.template)), graph_digest(stamp(tiny.full_template))
    assert stamped.keys() == full.keys()
    differing = [name for name, digest in stamped.items() if digest != full[name]]
    assert not differing, f"these outputs are computed differently: {', '.join(differing)}"


@check(1)
def test_chat_template_end_to_end(edgellm_case: Case) -> None:
    """A checkpoint without a chat template gets the family's; it renders as in transformers, and the graph answers."""
    from edgellm_core.runtime.generate import generate
    from edgellm_core.runtime.session import DecoderSession
    from edgellm_core.runtime.tokenizer import BundleTokenizer

    template, tiny = edgellm_case.family.chat_template(), edgellm_case.tiny
    if template is None:
        skip(SkipReason.NO_CHAT_TEMPLATE)
    folder = tiny.model_path.parent
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == template
    messages = [{"role": "user", "content": "hello world"}]
    tokenizer = BundleTokenizer(folder)
    text = tokenizer.render_chat(messages)
    assert text == _rendered_by_transformers(folder, messages)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(list(generate(DecoderSession(tiny.model_path), ids, max_new_tokens=4))) == 4


def _rendered_by_transformers(folder: Any, messages: list[dict[str, str]]) -> str:
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return rendered
