"""Every conversion of the ATen table, executed by ONNX Runtime, against what torch itself computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn
from torch.export import Dim

from edgellm_core.contract import GraphDimensions
from edgellm_core.runtime.float32_twin import BFLOAT16, FLOAT16, raise_to_float32
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx import OnnxTarget
from edgellm_core.tracing.aten import TABLE
from edgellm_core.tracing.converter import IR_VERSION, OPSET, Converter, UnsupportedOperatorError
from edgellm_core.tracing.graph_import import import_graph
from edgellm_core.tracing.operators import DOMAIN

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(shape, generator=GENERATOR)


def positive(*shape):
    return rand(*shape).abs() + 0.1


def ints(*shape, low=-9, high=9):
    return torch.randint(low, high, shape, generator=GENERATOR)


def bools(*shape):
    return torch.rand(shape, generator=GENERATOR) > 0.5


X = rand(2, 3, 4)
Y = rand(2, 3, 4)
I = ints(2, 3, 4)  # noqa: E741  # integers beside X
B = bools(2, 3, 4)
HALF = X.half()
QUERY = rand(2, 4, 3, 8)
SDPA = aten.scaled_dot_product_attention.default

UNARY = ["neg", "exp", "sin", "cos", "tanh", "sigmoid", "relu", "abs", "erf", "floor", "reciprocal", "silu", "softplus"]
CASES = [
    *[(getattr(aten, name).default, (X,)) for name in UNARY],
    *[(getattr(aten, name).default, (positive(2, 3),)) for name in ("log", "sqrt", "rsqrt")],
    *[(getattr(aten, name).default, (I,)) for name in ("neg", "abs", "exp", "sin")],
    (aten.rsqrt.default, (ints(4, low=1),)),
    (aten.logical_not.default, (B,)), (aten.logical_not.default, (I,)), (aten.bitwise_not.default, (B,)),
    # arithmetic, with numbers, broadcasting and mixed types
    *[(getattr(aten, name).Tensor, (X, Y)) for name in ("add", "sub", "mul", "div")],
    *[(getattr(aten, name).Tensor, (X, rand(4))) for name in ("add", "sub", "mul", "div")],
    *[(getattr(aten, name).Tensor, (I, Y)) for name in ("add", "sub", "mul", "div")],
    *[(getattr(aten, name).Tensor, (HALF, rand())) for name in ("add", "mul")],
    *[(getattr(aten, name).Scalar, (X, 2.5)) for name in ("add", "sub", "mul", "div")],
    *[(getattr(aten, name).Scalar, (I, 3)) for name in ("add", "sub", "mul")],
    (aten.add.Scalar, (I, 2.5)), (aten.div.Tensor, (I, I.abs() + 1)), (aten.div.Scalar, (I, 4)),
    (aten.add.Tensor, (X, Y), {"alpha": 3}), (aten.sub.Tensor, (X, Y), {"alpha": 0.5}),
    (aten.rsub.Scalar, (X, 2.0)), (aten.rsub.Tensor, (X, Y)), (aten.rsub.Scalar, (I, 2.5)),
    (aten.pow.Tensor_Scalar, (X, 2)), (aten.pow.Tensor_Scalar, (positive(3), -0.5)), (aten.pow.Scalar, (2.0, X)),
    (aten.pow.Tensor_Tensor, (positive(3), rand(3))), (aten.pow.Tensor_Scalar, (I, 2)),
    (aten.maximum.default, (X, Y)), (aten.minimum.default, (X, Y)), (aten.maximum.default, (I, I.flip(0))),
    # comparisons and logic
    *[(getattr(aten, name).Tensor, (I, I.flip(0))) for name in ("eq", "ne", "lt", "le", "gt", "ge")],
    *[(getattr(aten, name).Tensor, (I, X)) for name in ("lt", "ge")],
    *[(getattr(aten, name).Scalar, (I, 2)) for name in ("eq", "ne", "lt", "le", "gt", "ge")],
    *[(getattr(aten, name).Scalar, (I, 2.5)) for name in ("lt", "ge")],
    *[(getattr(aten, name).Tensor, (B, B.flip(0))) for name in ("bitwise_and", "bitwise_or", "__and__", "__or__")],
    *[(getattr(aten, name).default, (B, I)) for name in ("logical_and", "logical_or")],
    (aten.where.self, (B, X, Y)), (aten.where.self, (B, I, Y)), (aten.where.ScalarOther, (B, X, 2.0)),
    (aten.where.ScalarSelf, (B, 2.0, X)), (aten.where.Scalar, (B, 2.0, 3.0)),
    (aten.copy.default, (X, Y)), (aten.copy.default, (X, rand(4))), (aten.copy.default, (HALF, Y)),
    (aten.masked_fill.Scalar, (X, B, -1e4)), (aten.masked_fill.Tensor, (X, B, torch.tensor(3.0))),
    # what changes nothing, or only the type
    (aten.contiguous.default, (X,)), (aten.clone.default, (X,)), (aten.alias.default, (X,)),
    (aten.detach.default, (X,)), (aten.dropout.default, (X, 0.5, False)), (aten.lift_fresh_copy.default, (X,)),
    (aten.to.dtype, (X, torch.float16)), (aten.to.dtype, (X, torch.int64)), (aten.to.dtype, (B, torch.float32)),
    (aten.to.dtype, (X, torch.float32)), (aten.to.other, (X, I)), (aten.type_as.default, (I, X)),
    (aten._to_copy.default, (X,), {"dtype": torch.float16}), (aten.to.dtype_layout, (X,), {"dtype": torch.float64}),
    (aten.to.device, (X, torch.device("cpu"), torch.float16)),
    # activations with settings
    (aten.gelu.default, (X,)), (aten.gelu.default, (X,), {"approximate": "tanh"}),
    (aten.clamp.default, (X, -0.5, 0.5)), (aten.clamp.default, (X, None, 0.5)), (aten.clamp.default, (X, 0.1)),
    (aten.clamp.default, (X,), {"max": 0.2}), (aten.clamp.default, (I, -2, 3)), (aten.clamp.default, (I, 0.5)),
    (aten.clamp_min.default, (X, 0.1)), (aten.clamp_max.default, (X, 0.1)),
    (aten.square.default, (X,)), (aten.floor_divide.default, (I, torch.tensor([2, -3, 4, -5]))),
    (aten.floor_divide.default, (X, Y)), (aten.floor_divide.Scalar, (I, -4)),
    # reductions
    (aten.max.default, (X,)), (aten.min.default, (I,)),
    (aten.mean.dim, (X, [-1], True)), (aten.mean.dim, (X, [0, 2])), (aten.mean.default, (X,)),
    (aten.mean.dim, (HALF, [-1]), {"dtype": torch.float32}), (aten.sum.default, (B,)), (aten.sum.default, (I,)),
    (aten.sum.dim_IntList, (X, [1], True)), (aten.sum.dim_IntList, (B, [-1])), (aten.amax.default, (X, [1])),
    (aten.amax.default, (X,)), (aten.amin.default, (X, [-1], True)),
    (aten.softmax.int, (X, -1)), (aten.softmax.int, (HALF, 1, torch.float32)), (aten._softmax.default, (X, 2, False)),
    (aten.cumsum.default, (X, 1)), (aten.cumsum.default, (B, -1)), (aten.cumsum.default, (I, 0)),
    (aten.topk.default, (X, 2)), (aten.topk.default, (X, 2, 1)), (aten.topk.default, (X, 3, -1, False)),
    (aten.topk.default, (X, 1), {"largest": False}),
    (aten.gather.default, (X, 2, ints(2, 3, 2, low=0, high=4))),
    (aten.scatter.value, (X, 2, ints(2, 3, 2, low=0, high=4), 0.5)),
    (aten.scatter.value, (X, 1, ints(2, 1, 4, low=0, high=3), -2.0)),
    (aten.embedding.default, (rand(7, 5), ints(2, 3, low=0, high=7))),
    (aten.embedding.default, (rand(7, 5), ints(2, 3, low=0, high=7), 0)),
    # products, norms and attention
    (aten.linear.default, (X, rand(5, 4))), (aten.linear.default, (X, rand(5, 4), rand(5))),
    (aten.matmul.default, (X, rand(2, 4, 5))), (aten.matmul.default, (X, rand(4))),
    (aten.mm.default, (rand(2, 3), rand(3, 4))),
    (aten.bmm.default, (X, rand(2, 4, 5))), (aten.addmm.default, (rand(4), rand(2, 3), rand(3, 4))),
    (aten.addmm.default, (rand(4), rand(2, 3), rand(3, 4)), {"beta": 0.5, "alpha": 2}),
    (aten.baddbmm.default, (rand(2, 3, 5), X, rand(2, 4, 5)), {"beta": 0.3}),
    (aten.rms_norm.default, (X, [4], rand(4), 1e-3)), (aten.rms_norm.default, (X, [3, 4])),
    (aten.layer_norm.default, (X, [4])), (aten.layer_norm.default, (X, [4], rand(4), rand(4), 1e-3)),
    (aten.layer_norm.default, (X, [3, 4], rand(3, 4))),
    (SDPA, (QUERY, rand(2, 4, 5, 8), rand(2, 4, 5, 6))),
    (SDPA, (QUERY, rand(2, 2, 5, 8), rand(2, 2, 5, 8), rand(1, 1, 3, 5)), {"scale": 0.3, "enable_gqa": True}),
    (SDPA, (QUERY, rand(2, 4, 5, 8), rand(2, 4, 5, 8), torch.ones(3, 5).tril(2).bool())),
    # shapes
    (aten.view.default, (X, [6, -1])), (aten.reshape.default, (X, [2, 12])), (aten.reshape.default, (X, [-1])),
    (aten._unsafe_view.default, (X, [3, 8])), (aten.flatten.using_ints, (X, 1)), (aten.unflatten.int, (X, 2, [2, -1])),
    (aten.transpose.int, (X, -1, 0)), (aten.t.default, (rand(2, 3),)), (aten.t.default, (rand(3),)),
    (aten.numpy_T.default, (X,)), (aten.repeat.default, (X, [2, 1, 3])), (aten.repeat.default, (X, [2, 3, 1, 1, 2])),
    (aten.repeat_interleave.self_int, (X, 2, -1)), (aten.repeat_interleave.self_int, (X, 3, 0)),
    (aten.repeat_interleave.self_int, (X, 2, 1)),
    (aten.permute.default, (X, [2, 0, -2])), (aten.unsqueeze.default, (X, -1)), (aten.unsqueeze.default, (X, 1)),
    (aten.squeeze.dim, (rand(2, 1, 3), 1)), (aten.squeeze.dim, (X, 1)), (aten.squeeze.dims, (rand(1, 2, 1), [0, -1])),
    (aten.squeeze.dims, (rand(1, 2, 1), [0, 1])), (aten.expand.default, (rand(2, 1, 4), [3, -1, 5, 4])),
    (aten.broadcast_to.default, (rand(2, 1, 4), [2, 3, 4])),
    (aten.cat.default, ([X, Y], -1)), (aten.cat.default, ([X, I],)), (aten.stack.default, ([X, Y], 1)),
    (aten.stack.default, ([X, Y], -1)), (aten.stack.default, ([X, I],)),
    (aten.split.Tensor, (X, 2, -1)), (aten.split.Tensor, (rand(7, 2), 3)),
    (aten.split_with_sizes.default, (X, [1, 3], 2)),
    (aten.chunk.default, (X, 2, -1)), (aten.split.Tensor, (X, 4, -1)),
    (aten.slice.Tensor, (X, 1, 1)), (aten.slice.Tensor, (X, -1, 0, 3, 2)), (aten.slice.Tensor, (X, 2, -2)),
    (aten.slice.Tensor, (X, 0, 0, 2**63 - 1)), (aten.slice.Tensor, (X, 2, None, -1)),
    (aten.slice.Tensor, (X, 2, None, None, 2)),
    (aten.select.int, (X, 1, 2)), (aten.select.int, (X, -1, -1)),
]  # fmt: skip


class Call(nn.Module):
    """One operator on given arguments; the tensors among them are the module's inputs."""

    def __init__(self, target, arguments, keywords):
        super().__init__()
        self.target, self.arguments, self.keywords = target, arguments, keywords

    def forward(self, *tensors):
        given = iter(tensors)
        filled = [
            [next(given) for _ in item] if isinstance(item, list) and isinstance(item[0], torch.Tensor)
            else next(given) if isinstance(item, torch.Tensor) else item
            for item in self.arguments
        ]  # fmt: skip
        return self.target(*filled, **self.keywords)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def tensors_of(arguments):
    flat = [part for item in arguments for part in (item if isinstance(item, list) else [item])]
    return tuple(part for part in flat if isinstance(part, torch.Tensor))


def convert(module, inputs, dynamic=None):
    """Return an ONNX model of a module, and the ATen operators that it has."""
    program = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
    converter = Converter({})
    infos, seen, outputs = [], set(), []
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in constants:
            converter.values[node] = converter.constant(program.constants[constants[node.name]])
        elif node.op == "placeholder":
            converter.values[node] = node.name
            infos.append(converter.value_info(node.name, node.meta["val"]))
        elif node.op == "call_function":
            seen.add(str(node.target))
            converter.convert(node)
        elif node.op == "output":
            for index, result in enumerate(node.args[0]):
                name = f"result_{index}"
                converter.nodes.append(helper.make_node("Identity", [converter.values[result]], [name]))
                outputs.append(converter.value_info(name, result.meta["val"]))
    graph = helper.make_graph(converter.nodes, "g", infos, outputs, list(converter.initializers.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), seen


def run(model, inputs):
    """Lower the semantic operators and execute the graph."""
    graph = import_graph(model)
    run_rules(graph, OnnxTarget().rules(), GraphDimensions(layers=0, attentions=0))
    lowered = gs.export_onnx(graph)
    lowered.ir_version = IR_VERSION
    del lowered.opset_import[:]
    lowered.opset_import.append(helper.make_opsetid("", OPSET))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(lowered.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.input]
    return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})


def compare(found, expected):
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.numpy().dtype
        assert ours.shape == tuple(theirs.shape)
        tolerance = 2e-3 if ours.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=tolerance, atol=tolerance)


def case_id(case):
    shapes = ",".join(str(tuple(item.shape)) if isinstance(item, torch.Tensor) else str(item) for item in case[1])
    return f"{case[0]}({shapes})".replace("aten.", "")[:60]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_an_operator_equals_torch(case):
    target, arguments, keywords = (*case, {})[:3]
    module, inputs = Call(target, arguments, keywords), tensors_of(arguments)
    model, _seen = convert(module, inputs)
    compare(run(model, inputs), module(*inputs))


NARROW = {"bfloat16": (torch.bfloat16, BFLOAT16), "float16": (torch.float16, FLOAT16)}


@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.mul.Tensor, (X, 0.22)),
        (aten.div.Tensor, (X, 0.22)),
        (aten.add.Tensor, (X, 0.22)),
        (aten.pow.Tensor_Scalar, (X.abs(), 0.22)),
        (aten.rsub.Scalar, (X, 0.22)),
    ],
    ids=str,
)
def test_a_number_that_a_narrow_type_can_t_hold_is_not_rounded(target, arguments, narrow):
    dtype, element = NARROW[narrow]
    x = arguments[0].to(dtype)
    model, _seen = convert(Call(target, (x, 0.22), {}), (x,))
    raise_to_float32(model, element)
    (found,) = run(model, [x.float()])
    np.testing.assert_allclose(found, target(x.float(), 0.22).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize("number", [0.5, 3.0, 2])
def test_a_number_that_a_narrow_type_holds_needs_no_cast(number, narrow):
    x = X.to(NARROW[narrow][0])
    model, _seen = convert(Call(aten.mul.Tensor, (x, number), {}), (x,))
    assert [node.op_type for node in model.graph.node] == ["Mul", "Identity"]


def divided_in_place(x):
    y = x * 2
    z = y + 1
    y /= y.sum(-1, keepdim=True)
    y.clamp_(min=-0.5, max=0.5)
    return y + z


BATCH, SEQ = Dim("batch", min=1, max=64), Dim("seq", min=1, max=512)
DYNAMIC = {
    "view that splits heads": lambda x: x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2),
    "reshape that joins batch and sequence": lambda x: x.reshape(x.shape[0] * x.shape[1], 8),
    "reshape of two computed dimensions": lambda x: x.transpose(0, 1).reshape(x.shape[1], x.shape[0], 8),
    "expand to a computed length": lambda x: x[:, :1].expand(x.shape[0], x.shape[1], 8),
    "slice up to a computed end": lambda x: torch.ones(512, 8)[: x.shape[1]] + x,
    "last position": lambda x: x[:, -1:, :],
    "select of the last position": lambda x: x[:, -1],
    "range of positions": lambda x: torch.arange(x.shape[1]),
    "range from a start": lambda x: torch.arange(2, x.shape[1] + 2),
    "range with a step": lambda x: torch.arange(0, 2 * x.shape[1], 2),
    "range of floats": lambda x: torch.arange(x.shape[1], dtype=torch.float32),
    "zeros of a computed shape": lambda x: x.new_zeros(x.shape[0], x.shape[1]) + torch.zeros(x.shape[1]),
    "ones of a computed shape": lambda x: x.new_ones(x.shape[1], 3) + torch.ones(x.shape[1], 1),
    "full of a computed shape": lambda x: torch.full((x.shape[1], 2), -1.5) + x.new_full((x.shape[1], 1), 2),
    "a computed number": lambda x: torch.full((), x.shape[1], dtype=torch.int64) * 2,
    "like": lambda x: torch.zeros_like(x) + torch.ones_like(x) * 3 + torch.full_like(x, 0.25),
    "arithmetic of dimensions": lambda x: torch.arange((x.shape[1] * 3 - 1) // 2 + x.shape[0]),
    "negative dimension": lambda x: torch.ones(aten.sym_size.int(x, -2)),
    "causal mask": lambda x: torch.arange(x.shape[1])[None] <= torch.arange(x.shape[1])[:, None],
    "constants": lambda x: torch.zeros(2, 3) + torch.ones(3) + torch.full((2, 1), 0.5) + x.sum(),
    "rows by a tensor": lambda x: x[torch.tensor([[0, -1], [0, 0]])],
    "columns by a tensor": lambda x: x[:, :, torch.tensor([5, 0])],
    "elements by tensors": lambda x: x[torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None] - 1],
    "repeated": lambda x: x[:, :1].repeat(1, x.shape[1], 1),
    "repeated in a row": lambda x: x.repeat_interleave(2, dim=-1) + x.repeat_interleave(2, dim=-1),
    "a value divided in place": divided_in_place,
    "list index": lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_shapes_stay_dynamic(name):
    module = Function(DYNAMIC[name])
    model, _seen = convert(module, (rand(3, 7, 8),), (({0: BATCH, 1: SEQ},),))
    for batch, seq in ((3, 7), (1, 1), (2, 11)):
        x = rand(batch, seq, 8)
        compare(run(model, (x,)), module(x))


def test_every_entry_of_the_table_is_tested():
    seen = {str(case[0]) for case in CASES}
    for function in DYNAMIC.values():
        _model, operators = convert(Function(function), (rand(3, 7, 8),), (({0: BATCH, 1: SEQ},),))
        seen |= operators
    untested = {
        "onnx_symbolic._symbolic.default",  # every semantic operator: test_parity
        "aten._assert_scalar.default", "aten._assert_tensor_metadata.default",  # erased before the conversion
        "aten.detach_.default", "aten.float.default",  # in place, and no operator of its own in torch 2.13
    }  # fmt: skip
    assert set(TABLE) - seen <= untested


UNSUPPORTED = {
    "sort": (lambda x: x.sort()[0], "aten.sort.default"),
    "integer logic": (lambda x: x.long() & 3, "aten.__and__.Scalar|aten.bitwise_and.Scalar"),
    "integer logic of tensors": (lambda x: x.long() | x.long(), "aten.__or__.Tensor of integers"),
    "integer not": (lambda x: ~x.long(), "aten.bitwise_not.default of integers"),
    "softplus of another slope": (lambda x: nn.functional.softplus(x, beta=2.0), "aten.softplus.default with beta 2"),
    "causal attention without a mask": (
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True), "causal aten.scaled_dot"),
    "addmm without its bias": (lambda x: torch.addmm(x[0], x[0], x[0].t() @ x[0], beta=0), "addmm.default with beta 0"),
    "scaled rsub": (lambda x: torch.rsub(x, 2.0, alpha=3), "aten.rsub.Scalar with the arguments"),
    "rounded division": (lambda x: torch.div(x, 2, rounding_mode="floor"), r"aten.div.(Tensor|Scalar)_mode"),
    "booleans as indices": (lambda x: x.relu()[torch.ones(2, dtype=torch.bool)], "aten.index.Tensor by booleans"),
    "indices of later axes": (lambda x: x[:, torch.tensor([0]), torch.tensor([1])], "axes that are not the first"),
    "repeated in a row, flat": (lambda x: x.repeat_interleave(2), "aten.repeat_interleave.self_int of computed sizes"),
    "complex numbers": (lambda x: torch.view_as_complex(x.reshape(-1, 2)).abs(), "aten.view_as_complex.default"),
    "in place": (lambda x: x.clone().view(-1).add_(1), "aten.add_.Tensor on a value that shares memory"),
    "small integers": (lambda x: x.to(torch.int8).float(), "element type torch.int8"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_the_table_lacks_is_named(name):
    function, expected = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOperatorError, match=expected):
        convert(Function(function), (rand(2, 3, 4),))


def test_equal_constants_share_one_initializer():
    converter = Converter({})
    assert converter.ints(1, 2) == converter.constant(torch.tensor([1, 2]))
    assert converter.ints(1) != converter.constant(1, torch.int64)
    assert converter.constant(1.0, torch.float32) != converter.constant(1, torch.int32)
    assert converter.constant(0.0, torch.float32) != converter.constant(-0.0, torch.float32)
    assert len(converter.initializers) == 7


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float64]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_constants_keep_their_values(dtype, shape):
    value = (torch.rand(shape, generator=GENERATOR) * 3).to(dtype)
    converter = Converter({})
    array = onnx.numpy_helper.to_array(converter.initializers[converter.constant(value)])
    assert array.shape == shape
    np.testing.assert_array_equal(array.astype(np.float64), value.double().numpy())


def test_equal_operators_are_computed_once():
    model, _seen = convert(Function(lambda x: (x.exp() * x.shape[1], x.exp() + x.shape[1])), (rand(2, 3),))
    assert [node.op_type for node in model.graph.node].count("Exp") == 1
