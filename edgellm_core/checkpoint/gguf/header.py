"""Reads and checks the header of a GGUF file: metadata and where its tensors lie; never their data.

The ``gguf`` package's reader parses every token of the vocabulary into an array of its own, which takes seconds; this
one steps over string arrays, so ``edgellm detect`` answers at once.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import CorruptGgufError, TruncatedFileError
from edgellm_core.errors import shown
from edgellm_core.untrusted import FileLimitError, UnreadableFileError, require_regular_file
from edgellm_core.untrusted.limits import GGUF_KEYS, GGUF_STRING, GGUF_TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BLOCKS: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
"""ggml type → name, elements per block, bytes per block (``gguf.constants.GGML_QUANT_SIZES``)."""

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LARGEST_KEPT_ARRAY: Final = 4096
_LARGEST_RANK: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file.

    Attributes:
        name: llama.cpp's name, for example ``blk.0.attn_q.weight``.
        element_type: ggml's name of the type, for example ``Q4_1``.
        shape: dimensions, outermost first (the file has them innermost first).
        nbytes: bytes of the data.
        file: the file that holds it.
        offset: where its data begin in the file, in bytes.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufHeader:
    """What precedes the data of a GGUF file, or of all parts of a split one.

    Attributes:
        file: the file, as it was named.
        files: all parts in order; the file alone where it is not split.
        fields: metadata; an array of strings or a long array is left out.
        array_lengths: number of elements of every array of the metadata.
        tensors: the tensors, in the order of the header.
    """

    file: Path
    files: tuple[Path, ...]
    fields: Mapping[str, Any]
    array_lengths: Mapping[str, int]
    tensors: tuple[GgufTensor, ...]


def read_gguf_header(file: Path) -> GgufHeader:
    """Read and check the header of ``file``.

    Raises:
        UnreadableFileError: the file can't be read.
        TruncatedFileError: it ends before its header or its last tensor does.
        CorruptGgufError: it breaks the format in another way.
    """
    require_regular_file(file)
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise CorruptGgufError(file, "it does not begin with 'GGUF'")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(file, data).parse()
    except OSError as error:
        raise UnreadableFileError(file, error) from error


def shortest_decimal(value: float) -> float:
    """Return the shortest decimal number that a float32 of the file stands for: 1e-06, not 9.999999974752427e-07.

    config.json had the decimal number before it was rounded to the file's float32.
    """
    stored = struct.pack("<f", value)
    decimals = (float(f"{value:.{digits}g}") for digits in range(1, 9))
    return next((number for number in decimals if struct.pack("<f", number) == stored), value)


class _Parser:
    """Walks over the bytes of a header."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file = file
        self.data = data
        self.position = 4

    def parse(self) -> GgufHeader:
        """Return the header; ``self.position`` stands behind the magic number."""
        version: int = self.scalar("I")
        if version not in {2, 3}:
            problem = f"its version is {version}, not 2 or 3"
            if version in {2 << 24, 3 << 24}:
                problem = "it is big-endian"
            raise CorruptGgufError(self.file, problem)
        tensors, pairs = self.scalar("Q"), self.scalar("Q")
        for limit, count in ((GGUF_KEYS, pairs), (GGUF_TENSORS, tensors)):
            if limit.most < count <= len(self.data):  # more than there are bytes is a truncated file
                raise FileLimitError(self.file, limit.what, limit.shown(), limit.shown(count))
        fields: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(pairs):
            key = self.string()
            kind = self.scalar("I")
            if kind == _ARRAY:
                lengths[key], value = self.array(key)
                if value is None:
                    continue
            else:
                value = self.value(key, kind)
            fields[key] = value
        entries = [self.tensor() for _ in range(tensors)]
        start = self.check_ranges(entries, fields.get("general.alignment", 32))
        return GgufHeader(
            file=self.file,
            files=(self.file,),
            fields=fields,
            array_lengths=lengths,
            tensors=tuple(replace(entry, offset=start + entry.offset) for entry in entries),
        )

    def take(self, nbytes: int) -> int:
        """Step over ``nbytes`` and return where they begin."""
        start = self.position
        if start + nbytes > len(self.data):
            raise TruncatedFileError(self.file, expected=start + nbytes, found=len(self.data))
        self.position += nbytes
        return start

    def scalar(self, code: str) -> Any:
        """Read one little-endian number of ``struct``'s type ``code``."""
        return struct.unpack_from("<" + code, self.data, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        """Read a string with a 64-bit length in front."""
        nbytes = self.scalar("Q")
        if GGUF_STRING.most < nbytes <= len(self.data):
            raise FileLimitError(self.file, GGUF_STRING.what, GGUF_STRING.shown(), GGUF_STRING.shown(nbytes))
        start = self.take(nbytes)
        try:
            return self.data[start : start + nbytes].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptGgufError(self.file, f"the string at byte {start} is not UTF-8") from error

    def value(self, key: str, kind: int) -> Any:
        """Read a value of ggml's metadata type ``kind``."""
        if kind == _STRING:
            return self.string()
        if kind not in _SCALARS:
            raise CorruptGgufError(self.file, f"{key!r} has the unknown metadata type {kind}")
        value = self.scalar(_SCALARS[kind])
        return shortest_decimal(value) if _SCALARS[kind] == "f" else value

    def array(self, key: str) -> tuple[int, list[Any] | None]:
        """Read an array: its length, and its values where they are few numbers."""
        kind, length = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            self.skip_strings(length)
            return length, None
        if kind not in _SCALARS:
            raise CorruptGgufError(self.file, f"{key!r} is an array of the unknown type {kind}")
        code = _SCALARS[kind]
        start = self.take(length * struct.calcsize("<" + code))
        if length > _LARGEST_KEPT_ARRAY:
            return length, None
        return length, list(struct.unpack_from(f"<{length}{code}", self.data, start))

    def skip_strings(self, count: int) -> None:
        """Step over ``count`` strings; a vocabulary has 10⁵ of them, hence the tight loop."""
        data, position, size = self.data, self.position, len(self.data)
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position + 8 > size:
                raise TruncatedFileError(self.file, expected=position + 8, found=size)
            position += 8 + unpack(data, position)[0]
        if position > size:
            raise TruncatedFileError(self.file, expected=position, found=size)
        self.position = position

    def tensor(self) -> GgufTensor:
        """Read one tensor; its offset is still from the start of the data."""
        name = self.string()
        rank = self.scalar("I")
        if rank > _LARGEST_RANK:
            raise CorruptGgufError(self.file, f"tensor {name!r} has {rank} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(rank))[::-1]
        kind, offset = self.scalar("I"), self.scalar("Q")
        if kind not in BLOCKS:
            raise CorruptGgufError(self.file, f"tensor {name!r} has the unknown element type {kind}")
        element_type, block, block_bytes = BLOCKS[kind]
        elements = math.prod(shape)
        if elements % block or (shape and shape[-1] % block):
            raise CorruptGgufError(self.file, f"tensor {name!r} {shape} does not divide into {element_type} blocks")
        nbytes = elements // block * block_bytes
        return GgufTensor(
            name=name, element_type=element_type, shape=shape, nbytes=nbytes, file=self.file, offset=offset
        )

    def check_ranges(self, entries: list[GgufTensor], alignment: Any) -> int:
        """Return where the data begin; refuse tensors of one name, and a file that ends before its last tensor."""
        if type(alignment) is not int or alignment <= 0:
            raise CorruptGgufError(self.file, f"general.alignment is {shown(alignment)}")
        names = [entry.name for entry in entries]
        if len(set(names)) != len(names):
            raise CorruptGgufError(self.file, "two tensors have the same name")
        data_start = -(-self.position // alignment) * alignment
        expected = max((data_start + entry.offset + entry.nbytes for entry in entries), default=self.position)
        if expected > len(self.data):
            raise TruncatedFileError(self.file, expected=expected, found=len(self.data))
        return data_start
