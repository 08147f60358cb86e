"""bind() against torch.cat, .t() and .to, across chunk boundaries; and every way in which weights can be bad."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.events import Reporter
from edgellm_core.weights.binder import ALIGNMENT, bind, plan_layout
from edgellm_core.weights.errors import (
    NonFiniteWeightError,
    RecipeMismatchError,
    ScaledWeightOverflowError,
    TruncatedTensorError,
    UnreadableFileError,
    UnsupportedCastError,
    WeightOverflowError,
    WeightsNotWrittenError,
)
from edgellm_core.weights.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.errors import EdgellmError

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def recipe_for(name: str, tensor: torch.Tensor, element_type: str, **changes) -> Recipe:
    fields = {"name": name, "element_type": element_type, "shape": tuple(tensor.shape), "sources": (name,)}
    return Recipe(**{**fields, **changes})


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def jobs(draw):
    """Draw tensors, and for each initializer its recipe with torch's idea of the result."""
    tensors, recipes, expected = {}, [], {}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    for number in range(draw(st.integers(1, 4))):
        rank, transpose = draw(st.integers(0, 3)), draw(st.booleans())
        rank = 2 if transpose else rank
        tail = draw(st.lists(st.integers(1, 7), min_size=max(rank - 1, 0), max_size=max(rank - 1, 0)))
        count = draw(st.integers(1, 3)) if rank else 1
        target = draw(st.sampled_from(sorted(FLOATS)))
        parts = []
        for source in range(count):
            shape = [draw(st.integers(0, 40)), *tail] if rank else []
            if transpose:
                shape.reverse()
            dtype = FLOATS[draw(st.sampled_from(sorted(FLOATS)))]
            tensor = torch.randn(shape, generator=generator).to(dtype)
            tensors[f"t{number}.{source}"] = tensor
            parts.append((tensor.t() if transpose else tensor).to(FLOATS[target]))
        whole = torch.cat(parts) if rank else parts[0]
        sources = tuple(f"t{number}.{source}" for source in range(count))
        recipes.append(
            Recipe(
                name=f"t{number}", element_type=target, shape=tuple(whole.shape), sources=sources, transpose=transpose
            )
        )
        expected[f"t{number}"] = whole
    return tensors, recipes, expected


@settings(max_examples=150, deadline=None)
@given(jobs(), st.sampled_from([8, 12, 36, 100, 4096, 1 << 16]))
def test_bind_equals_torch_bit_for_bit(write_tensors, tmp_path_factory, job, chunk_bytes):
    tensors, recipes, expected = job
    path = tmp_path_factory.mktemp("out") / "model.onnx.data"
    result = bind(recipes, write_tensors(tensors), path, report=Reporter("bind"), chunk_bytes=chunk_bytes)
    data = path.read_bytes()
    assert len(data) == result.nbytes == result.layout.total
    assert hashlib.sha256(data).hexdigest() == result.sha256
    end = 0
    for recipe in recipes:
        slot = result.layout.slots[recipe.name]
        assert slot.offset % ALIGNMENT == 0
        assert not any(data[end : slot.offset])
        end = slot.offset + slot.nbytes
        assert data[slot.offset : end] == bytes_of(expected[recipe.name])
    assert end == len(data)


@pytest.mark.parametrize("tensor", [
    torch.arange(5), torch.tensor([True, False]), torch.arange(7, dtype=torch.uint8), torch.tensor(3),
], ids=["I64", "BOOL", "U8", "scalar"])  # fmt: skip
def test_other_types_are_copied(write_tensors, tmp_path, tensor):
    index = write_tensors({"x": tensor})
    path = tmp_path / "data"
    bind([recipe_for("x", tensor, index["x"].element_type)], index, path, report=Reporter("bind"))
    assert path.read_bytes() == bytes_of(tensor)


def test_no_initializers_make_an_empty_file(tmp_path):
    result = bind([], {}, tmp_path / "data", report=Reporter("bind"))
    assert result.nbytes == (tmp_path / "data").stat().st_size == 0
    assert result.sha256 == hashlib.sha256().hexdigest()


def test_layout_aligns_every_initializer():
    recipes = [recipe_for(f"t{n}", torch.empty(n), "F16") for n in (1, 2048, 2049, 0, 3)]
    layout = plan_layout(recipes)
    assert [slot.offset for slot in layout.slots.values()] == [0, 4096, 8192, 16384, 16384]
    assert layout.total == 16390


def refuse(error: type[EdgellmError], match: str, recipes, index, path: Path, chunk_bytes: int = 64) -> None:
    with pytest.raises(error, match=match):
        bind(recipes, index, path, report=Reporter("bind"), chunk_bytes=chunk_bytes)
    assert not path.is_file()


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weight_is_refused(write_tensors, tmp_path, source, target, value):
    tensor = torch.ones(200, dtype=FLOATS[source])
    tensor[77] = value
    index = write_tensors({"fine": torch.ones(3), "layer.weight": tensor})
    recipes = [recipe_for("fine", torch.ones(3), "F16"), recipe_for("layer.weight", tensor, target)]
    refuse(
        NonFiniteWeightError, rf"'layer\.weight' .*value {value} at flat index 77;", recipes, index, tmp_path / "data"
    )


@pytest.mark.parametrize("source", ["F32", "BF16"])
@pytest.mark.parametrize("value", [70000.0, -70000.0, 65520.0])
def test_float16_overflow_is_refused(write_tensors, tmp_path, source, value):
    tensor = torch.ones(200, dtype=FLOATS[source])
    tensor[130] = value
    index = write_tensors({"layer.weight": tensor})
    match = r"'layer\.weight' .*flat index 130, which F16 can't hold.*--precision bf16 or --precision fp32"
    refuse(WeightOverflowError, match, [recipe_for("layer.weight", tensor, "F16")], index, tmp_path / "data")


def test_largest_float16_is_not_an_overflow(write_tensors, tmp_path):
    tensor = torch.tensor([65504.0, 65519.0, -65504.0])
    bind([recipe_for("x", tensor, "F16")], write_tensors({"x": tensor}), tmp_path / "data", report=Reporter("bind"))
    assert (tmp_path / "data").read_bytes() == bytes_of(tensor.half())


def test_bfloat16_overflow_suggests_float32(write_tensors, tmp_path):
    tensor = torch.tensor([3.4e38])
    recipes = [recipe_for("x", tensor, "BF16")]
    match = r"3\.4e\+38 at flat index 0, which BF16 can't hold. Build with --precision fp32\."
    refuse(WeightOverflowError, match, recipes, write_tensors({"x": tensor}), tmp_path / "data")


@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("source", [torch.float64, torch.int64, torch.int16, torch.bool])
@pytest.mark.parametrize("transpose", [False, True])
def test_other_numbers_are_written_as_transformers_casts_them(write_tensors, tmp_path, source, target, transpose):
    tensor = (torch.randn(30, 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 9).to(source)
    wanted = tensor.t().contiguous() if transpose else tensor
    recipes = [recipe_for("x", wanted, target, transpose=transpose)]
    bind(recipes, write_tensors({"x": tensor}), tmp_path / "data", report=Reporter("bind"), chunk_bytes=64)
    assert (tmp_path / "data").read_bytes() == bytes_of(wanted.float().to(FLOATS[target]))


@pytest.mark.parametrize(("value", "error", "match"), [
    (1e300, WeightOverflowError, r"value 1e\+300 at flat index 343, which F32 can't hold\. No precision does"),
    (float("nan"), NonFiniteWeightError, r"value nan at flat index 343;"),
    (float("inf"), NonFiniteWeightError, r"value inf at flat index 343;"),
    (70000.0, WeightOverflowError, r"value 70000 at flat index 343, which F16 can't hold\. Build with"),
])  # fmt: skip
@pytest.mark.parametrize("transpose", [False, True])
def test_doubles_out_of_range_are_refused(write_tensors, tmp_path, value, error, match, transpose):
    tensor = torch.zeros(30, 20, dtype=torch.float64)
    tensor[17, 3] = value
    recipes = [recipe_for("x", tensor.t() if transpose else tensor, "F16", transpose=transpose)]
    refuse(error, match, recipes, write_tensors({"x": tensor}), tmp_path / "data")


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
def test_a_factor_multiplies_what_was_cast(write_tensors, tmp_path, source, target):
    tensor = torch.randn(300, generator=torch.Generator().manual_seed(2)).to(FLOATS[source])
    index = write_tensors({"x": tensor})
    recipes = [recipe_for("x", tensor, target, factor=9.796875)]
    bind(recipes, index, tmp_path / "data", report=Reporter("bind"), chunk_bytes=64)
    wanted = (tensor.to(FLOATS[target]).float() * 9.796875).to(FLOATS[target])
    assert (tmp_path / "data").read_bytes() == bytes_of(wanted)


@pytest.mark.parametrize("source", ["F32", "F16"])
def test_a_product_that_overflows_is_refused(write_tensors, tmp_path, source):
    tensor = torch.ones(200, dtype=FLOATS[source])
    tensor[130] = -30000
    recipes = [recipe_for("x", tensor, "F16", factor=3.5)]
    match = r"'x' has the value -30000 at flat index 130; F16 can't hold it times 3\.5, a factor .* --precision bf16"
    refuse(ScaledWeightOverflowError, match, recipes, write_tensors({"x": tensor}), tmp_path / "data")


def test_index_of_a_transposed_weight_is_that_of_the_checkpoint(write_tensors, tmp_path):
    tensor = torch.zeros(30, 20)
    tensor[17, 3] = float("nan")
    recipes = [recipe_for("x", tensor.t(), "F16", transpose=True)]
    match = f"flat index {17 * 20 + 3};"
    refuse(NonFiniteWeightError, match, recipes, write_tensors({"x": tensor}), tmp_path / "data")


def test_truncated_file_is_refused(write_tensors, tmp_path):
    tensor = torch.ones(1000)
    index = write_tensors({"x": tensor})
    file = index["x"].file
    file.write_bytes(file.read_bytes()[:-4])
    match = r"ends inside tensor 'x': it is truncated"
    refuse(TruncatedTensorError, match, [recipe_for("x", tensor, "F16")], index, tmp_path / "data")


def test_missing_file_is_one_sentence(write_tensors, tmp_path):
    tensor = torch.ones(4)
    index = write_tensors({"x": tensor})
    index["x"].file.unlink()
    match = r"Can't read '.*safetensors': No such file"
    refuse(UnreadableFileError, match, [recipe_for("x", tensor, "F16")], index, tmp_path / "data")


def test_full_disk_is_refused_before_anything_is_read(tmp_path):
    shape = (1 << 22, 1 << 20)
    entry = TensorEntry(name="x", element_type="F16", shape=shape, file=tmp_path / "none", offset=0, nbytes=1 << 43)
    recipes = [Recipe(name="x", element_type="F16", shape=shape, sources=("x",))]
    match = r"Can't write 8192\.00 GiB of weights .*(No space left|File too large).*Free space or choose another"
    refuse(WeightsNotWrittenError, match, recipes, {"x": entry}, tmp_path / "data", chunk_bytes=1 << 20)


def test_unwritable_directory_is_one_sentence(write_tensors, tmp_path):
    (tmp_path / "file").touch()
    tensor = torch.ones(4)
    recipes = [recipe_for("x", tensor, "F16")]
    match = r"Can't write .*Not a directory\. Choose another output directory"
    refuse(WeightsNotWrittenError, match, recipes, write_tensors({"x": tensor}), tmp_path / "file" / "data")


def test_failing_write_removes_the_file(write_tensors, tmp_path):
    """A limit on the size of files makes the write itself fail: there is nothing to reserve for it."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from edgellm_core.weights.sink import DigestedFile
from edgellm_core.weights.errors import WeightsNotWrittenError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(tmp_path / "data")!r})
try:
    with DigestedFile(path, 0, chunk_bytes=4096) as sink:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        sink.pad_to(1 << 20)
        sink.finish()
except WeightsNotWrittenError as error:
    print(path.exists(), error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False Can't write")
    assert "File too large. Free space" in done.stdout


def test_unknown_cast_is_refused(write_tensors, tmp_path):
    tensor = torch.ones(3).to(torch.float8_e4m3fn)
    match = r"'x' has element type F8_E4M3, which can't be turned into F16.*Use a checkpoint in one of these"
    recipes = [recipe_for("x", tensor, "F16")]
    refuse(UnsupportedCastError, match, recipes, write_tensors({"x": tensor}), tmp_path / "data")


@pytest.mark.parametrize("changes", [
    {"shape": (3, 4)}, {"shape": (24,)}, {"shape": (8, 3), "sources": ("x", "x")}, {"sources": ("x", "y")},
    {"shape": (4, 6), "transpose": True, "sources": ("v",)},
])  # fmt: skip
def test_recipe_that_does_not_add_up_is_refused(write_tensors, tmp_path, changes):
    tensors = {"x": torch.ones(4, 6), "y": torch.ones(4, 5), "v": torch.ones(24)}
    recipes = [recipe_for("x", tensors["x"], "F16", **changes)]
    refuse(
        RecipeMismatchError, r"The recipe of 'x' must make shape", recipes, write_tensors(tensors), tmp_path / "data"
    )


def test_memory_does_not_grow_with_the_tensor(tmp_path):
    """A sparse file stands for a tensor of 256 MiB."""
    file = tmp_path / "model.safetensors"
    file.touch()
    with file.open("r+b") as stream:
        stream.truncate(1 << 28)
    shape = (1 << 14, 1 << 13)
    entry = TensorEntry(name="x", element_type="BF16", shape=shape, file=file, offset=0, nbytes=1 << 28)
    recipe = Recipe(name="x", element_type="F16", shape=shape, sources=("x",))
    tracemalloc.start()
    try:
        bind([recipe], {"x": entry}, tmp_path / "data", report=Reporter("bind"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20


def test_progress_counts_bytes_up_to_all(write_tensors, tmp_path):
    events = []
    tensor = torch.ones(5000)
    recipes = [recipe_for("x", tensor, "F16")]
    bind(recipes, write_tensors({"x": tensor}), tmp_path / "data", report=Reporter("bind", events.append))
    assert (events[-1].event, events[-1].completed, events[-1].total) == ("progress", 10000, 10000)
    assert len(events) < 5


def test_binding_imports_no_torch(write_tensors, tmp_path):
    tensor = torch.linspace(-2, 2, 999).bfloat16()
    index = write_tensors({"x": tensor})
    script = f"""
import sys
from pathlib import Path
from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.events import Reporter
from edgellm_core.weights.binder import bind
from edgellm_core.weights.recipe import Recipe
from pathlib import PosixPath
entry = {index["x"]!r}
recipe = Recipe(name="x", element_type="F16", shape=(999,), sources=("x",))
bind([recipe], {{"x": entry}}, Path({str(tmp_path / "data")!r}), report=Reporter("bind"), chunk_bytes=100)
print(sorted({{"torch", "onnx", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (tmp_path / "data").read_bytes() == bytes_of(tensor.half())
