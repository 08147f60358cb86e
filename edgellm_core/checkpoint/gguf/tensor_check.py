"""Compares the weights that were written with a second reading of the GGUF file: names, layout and values.

Names come from the ``gguf`` package's table, the layout from transformers' own processors, and values from the ``gguf``
package's dequantization.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.errors import GgufReadersDisagreeError
from edgellm_core.checkpoint.gguf.metadata import architecture
from edgellm_core.checkpoint.gguf.rope import ROPE_TENSORS
from edgellm_core.checkpoint.gguf.second_reader import read_rows
from edgellm_core.checkpoint.safetensors_header import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.gguf.header import GgufHeader
    from edgellm_core.checkpoint.gguf.plan import Target
    from edgellm_core.checkpoint.gguf.second_reader import Array, SecondReader
    from edgellm_core.checkpoint.tensors import TensorEntry
    from edgellm_core.gguf_form import GgufForm

Layout = Callable[[str, int, int], "tuple[Array, float]"]

SAMPLED_ROWS: Final = 24
"""Least rows of each tensor that are compared, spread over it: the first, the last, and some between."""

SAMPLED_ELEMENTS: Final = 1 << 20
"""One row of so many elements is compared, where that is more: at least one of each run that was converted at once."""

_ONE_EXPERT: Final = re.compile(r"(ffn_(?:gate|up|down))\.\d+\.")
"""A tensor of one expert, in files that have one for each; the ``gguf`` package's table knows the stack of all."""

_EXPERT: Final = re.compile(r"\.experts\.\d+\.")


def check_tensors(
    header: GgufHeader,
    reader: SecondReader,
    form: GgufForm,
    targets: Sequence[Target],
    written: Path,
    config: Mapping[str, Any],
) -> None:
    """Compare names, layout and values of what was written with what the second reader finds in the file.

    Raises:
        GgufReadersDisagreeError: they differ.
    """
    used = {source.name for target in targets for source in target.sources} | set(ROPE_TENSORS)
    if unused := sorted(reader.tensors.keys() - used):
        raise GgufReadersDisagreeError(header.file, f"its tensor {unused[0]} is nowhere in the checkpoint")
    stored = read_header(written).tensors
    name_of = _names(header)
    layout = _layout(architecture(header), form, config)
    random = np.random.default_rng(0)
    for target in targets:
        if not target.sources:
            continue
        expected_name = name_of(target.name)
        names = [_ONE_EXPERT.sub(r"\1_exps.", source.name) for source in target.sources]
        if expected_name is not None and not any(expected_name in {name, name.rpartition(".")[0]} for name in names):
            problem = f"{target.name} comes from {names[0]}, and the gguf package's table says {expected_name}"
            raise GgufReadersDisagreeError(header.file, problem)
        if not _same_values(reader, target, stored[target.name], layout, random):
            raise GgufReadersDisagreeError(header.file, f"the values of {target.name} are not those of {names[0]}")


def _same_values(reader: SecondReader, target: Target, entry: TensorEntry, layout: Layout, random: Any) -> bool:
    """Compare sampled rows bit by bit, after rounding to the type that was written."""
    import torch

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[entry.element_type]
    for rows, expected in _expected(reader, target, layout, random):
        wanted = torch.from_numpy(np.ascontiguousarray(expected)).to(dtype)
        width = wanted.shape[1] * dtype.itemsize
        found = torch.from_numpy(read_rows(entry.file, entry.offset, width, rows)).view(dtype)
        if not bool(((found == wanted) | (found.isnan() & wanted.isnan())).all()):
            return False
    return True


def _expected(
    reader: SecondReader, target: Target, layout: Layout, random: Any
) -> Iterator[tuple[Sequence[int] | Array, Array]]:
    """Yield numbers of rows of the tensor that was written, and what the second reader expects there."""
    source = target.sources[0]
    if len(target.sources) > 1 or target.transposed:
        yield from _expected_matrices(reader, target, random)
        return
    columns = source.shape[-1] if len(source.shape) > 1 else 1
    rows = math.prod(target.shape) // columns
    order, offset = layout(source.name, rows, target.first_row)
    picked = _sample(rows, columns, random) if columns > 1 else np.arange(rows)
    yield picked, reader.rows(source.name, order[picked]) - np.float32(offset)


def _expected_matrices(
    reader: SecondReader, target: Target, random: Any
) -> Iterator[tuple[Sequence[int] | Array, Array]]:
    """Yield sampled matrices of a tensor whose rows take turns, or which is transposed."""
    rows = math.prod(target.sources[0].shape) // target.sources[0].shape[0]
    per_expert = target.sources[0].shape[1] if len(target.sources[0].shape) > 2 else 1
    columns = rows // per_expert
    for expert in {0, target.shape[0] - 1, int(random.integers(target.shape[0]))}:
        first = expert * per_expert
        parts = [reader.rows(source.name, range(first, first + per_expert)) for source in target.sources]
        joined = np.empty(
            (len(parts) * per_expert, columns) if per_expert > 1 else (1, len(parts) * columns), np.float32
        )
        for turn, part in enumerate(parts):
            if per_expert > 1:
                joined[turn :: len(parts)] = part
            else:
                joined[:, turn :: len(parts)] = part
        matrix = joined.T if target.transposed else joined
        yield np.arange(expert * len(matrix), (expert + 1) * len(matrix)), matrix


def _sample(rows: int, columns: int, random: Any) -> Array:
    """Return numbers of rows: the first, the last, and one of each run."""
    count = min(rows, max(SAMPLED_ROWS, 2 * rows * columns // SAMPLED_ELEMENTS))
    edges = np.linspace(0, rows, count + 1).astype(int)
    picked = [int(random.integers(low, high)) for low, high in itertools.pairwise(edges) if high > low]
    return np.unique([0, rows - 1, *picked])


def _layout(name: str, form: GgufForm, config: Mapping[str, Any]) -> Layout:
    """Return what gives order of rows and offset for a tensor's name, its number of rows and the first one.

    transformers' processor of the architecture is run on the numbers of the rows.
    """
    legacy: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    like = (
        "llama" if form.paired_rows else "gemma2" if form.norm_offset else ""
    )  # where it does not read the architecture
    make = legacy.TENSOR_PROCESSORS.get(name) or legacy.TENSOR_PROCESSORS.get(like, legacy.TensorProcessor)
    processor = make(config=config)

    def layout(tensor: str, rows: int, first: int) -> tuple[Array, float]:
        if "_exps." in tensor or first:  # an expert, or a head: a run of rows
            return np.arange(first, first + rows), 0.0
        zeros = np.asarray(processor.process(np.zeros((rows, 1)), tensor).weights).reshape(-1)
        moved = np.asarray(processor.process(np.arange(rows, dtype=float)[:, None], tensor).weights).reshape(-1)
        return (moved - zeros).astype(int), -float(zeros[0])

    return layout


def _names(header: GgufHeader) -> Callable[[str], str | None]:
    """Return the ``gguf`` package's table: name in the checkpoint → name in the file; None where it is silent."""
    import gguf

    kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    kind = kinds.get(architecture(header))
    if kind is None:
        return lambda _name: None
    table = gguf.get_tensor_name_map(kind, 1 + max(_layers(header), default=0))

    def name_of(name: str) -> str | None:
        found: str | None = table.get_name(_EXPERT.sub(".experts.", name), try_suffixes=(".weight", ".bias"))
        return found

    return name_of


def _layers(header: GgufHeader) -> Iterator[int]:
    for tensor in header.tensors:
        if match := re.match(r"blk\.(\d+)\.", tensor.name):
            yield int(match[1])
