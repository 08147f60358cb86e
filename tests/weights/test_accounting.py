"""Every parameter gets its tensor, every tensor is used or ignored, and what does not fit is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.weights.accounting import account
from edgellm_core.weights.errors import (
    MissingTensorsError,
    ShapeMismatchError,
    UnexpectedTensorsError,
    UnsupportedCastError,
)

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
LAYERS = [f"model.layers.{layer}.{part}.weight" for layer in range(12) for part in ("mlp.up_proj", "self_attn.q_proj")]


@dataclass(frozen=True)
class Parameter:
    element_type: str = "F16"
    shape: tuple[int, ...] = (8, 4)


def parameters(*names, **kwargs):
    return {name: Parameter(**kwargs) for name in names}


def checkpoint(*names, element_type="BF16", shape=(8, 4), file="model.safetensors"):
    return {
        name: TensorEntry(
            name=name, element_type=element_type, shape=shape, file=Path(file), offset=64 * number, nbytes=64
        )
        for number, name in enumerate(names)
    }


def sources(recipes):
    return {recipe.name: recipe.sources for recipe in recipes}


def test_each_parameter_is_made_from_its_tensor_in_the_order_on_disk():
    recipes = account(parameters(NORM, *LAYERS, EMBEDDING), checkpoint(EMBEDDING, *LAYERS, NORM)).recipes
    assert [recipe.name for recipe in recipes] == [EMBEDDING, *LAYERS, NORM]
    assert all(recipe.sources == (recipe.name,) for recipe in recipes)
    assert {(recipe.element_type, recipe.shape, recipe.transpose) for recipe in recipes} == {("F16", (8, 4), False)}


@pytest.mark.parametrize(("stored", "source"), [
    ([EMBEDDING], EMBEDDING), ([HEAD], HEAD), ([HEAD, EMBEDDING], EMBEDDING), ([EMBEDDING, HEAD], EMBEDDING),
])  # fmt: skip
@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_any_member_of_a_tied_group_will_do(stored, source, name):
    recipes = account(parameters(name, NORM), checkpoint(*stored, NORM), tied={HEAD: EMBEDDING}).recipes
    assert sources(recipes)[name] == (name if name in stored else source,)


def test_groups_of_three_are_one_group():
    tied = {"decoder.weight": "shared.weight", "lm_head.weight": "shared.weight"}
    recipes = account(parameters("shared.weight"), checkpoint("lm_head.weight", "decoder.weight"), tied=tied).recipes
    assert sources(recipes) == {"shared.weight": ("decoder.weight",)}


def test_missing_parameter_names_the_nearest_tensor():
    stored = checkpoint(*LAYERS, "model.norm.weights")
    with pytest.raises(MissingTensorsError, match=r"lacks 1 .*'model.norm.weight' \(similar: 'model.norm.weights'\)"):
        account(parameters(*LAYERS, NORM), stored)


def test_many_missing_parameters_are_counted():
    with pytest.raises(MissingTensorsError, match=r"lacks 24 tensor\(s\).*'model.layers.0.*, … \(24 in all\)"):
        account(parameters(*LAYERS, NORM), checkpoint(NORM))


def test_missing_tied_group_is_missing():
    with pytest.raises(MissingTensorsError, match=r"lacks 1 .*'model.embed_tokens.weight'"):
        account(parameters(EMBEDDING, NORM), checkpoint(NORM), tied={HEAD: EMBEDDING})


def test_unexpected_tensor_is_named():
    with pytest.raises(UnexpectedTensorsError, match=r"1 tensor\(s\) that the model does not use: 'lm_head.weight'\."):
        account(parameters(*LAYERS), checkpoint(*LAYERS, HEAD))


def test_a_tensor_is_left_out_for_a_reason():
    stored = checkpoint(*LAYERS, "model.layers.0.self_attn.rotary_emb.inv_freq", HEAD)
    with pytest.raises(UnexpectedTensorsError, match=r"1 tensor\(s\) that the model does not use: 'lm_head.weight'\."):
        account(parameters(*LAYERS), stored, may_leave_out=lambda entry: "known" if "inv_freq" in entry.name else "")
    found = account(parameters(*LAYERS), stored, may_leave_out=lambda entry: f"about {entry.name[:2]}")
    assert found.left_out == {"model.layers.0.self_attn.rotary_emb.inv_freq": "about mo", HEAD: "about lm"}


def test_a_tensor_that_may_be_left_out_is_used_where_the_graph_needs_it():
    found = account(parameters(NORM), checkpoint(NORM), may_leave_out=lambda _entry: "anything")
    assert sources(found.recipes) == {NORM: (NORM,)}
    assert not found.left_out


def test_all_tensors_of_a_tied_group_must_be_equal():
    tied = {"decoder.weight": "shared.weight", "lm_head.weight": "shared.weight"}
    found = account(parameters("shared.weight"), checkpoint("lm_head.weight", "shared.weight"), tied=tied)
    assert found.tied == (("shared.weight", "lm_head.weight", "F16"),)
    found = account(
        parameters(EMBEDDING), checkpoint("tok", HEAD), sources={EMBEDDING: ("tok",)}, tied={HEAD: EMBEDDING}
    )
    assert found.tied == (("tok", HEAD, "F16"),)


@pytest.mark.parametrize("stored", [(8, 5), (4, 8), (32,), ()])
def test_other_shape_is_refused(stored):
    tensors = {**checkpoint(*LAYERS), **checkpoint(NORM, shape=stored)}
    match = rf"1 tensor.*'model.norm.weight' has \[{', '.join(map(str, stored))}\], not \[8, 4\]"
    with pytest.raises(ShapeMismatchError, match=match):
        account(parameters(*LAYERS, NORM), tensors)


@pytest.mark.parametrize("element_type", ["F8_E4M3", "F8_E5M2"])
def test_element_type_that_can_not_be_cast_is_refused(element_type):
    match = rf"'{NORM}' has element type {element_type}, which can't be turned into F16"
    with pytest.raises(UnsupportedCastError, match=match):
        account(parameters(NORM), checkpoint(NORM, element_type=element_type))


@given(st.sets(st.sampled_from(LAYERS)), st.sets(st.sampled_from(LAYERS)))
def test_accounts_only_for_equal_sets(needed, stored):
    if needed == stored:
        assert {recipe.name for recipe in account(parameters(*needed), checkpoint(*stored)).recipes} == needed
        return
    error = MissingTensorsError if needed - stored else UnexpectedTensorsError
    with pytest.raises(error, match=str(len(needed - stored) or len(stored - needed))):
        account(parameters(*needed), checkpoint(*stored))


EXPERTS = ("experts.0.up", "experts.1.up")


def test_stacked_parameter_is_made_from_its_parts_in_order():
    recipes = account(
        parameters("experts.up", shape=(2, 3, 4)), checkpoint(*reversed(EXPERTS), shape=(3, 4)),
        sources={"experts.up": EXPERTS},
    ).recipes  # fmt: skip
    assert [(recipe.sources, recipe.shape) for recipe in recipes] == [(EXPERTS, (2, 3, 4))]


def test_stack_with_a_missing_part_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"experts\.0\.up"):
        account(
            parameters("experts.up", shape=(2, 3, 4)), checkpoint(EXPERTS[0], shape=(3, 4)),
            sources={"experts.up": EXPERTS[:1]},
        )  # fmt: skip
