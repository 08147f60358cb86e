"""Which layers of a quantization are finished, on disk, so that a killed run goes on after the last of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.errors import UserError
from edgellm_core.quantization.formats import LinearFormat
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.limits import OWN_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECORD: Final = "progress.json"


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """What became of one part of the model: a decoder layer, or the head.

    Attributes:
        linears: form of each quantized layer by its name in the checkpoint.
        excluded: why a layer stayed in floats, by that name.
        unscaled: layers whose input should be scaled, and nothing before them takes the scale.
        cached: scales of its keys and values were measured.
        strengths: how strongly each smoothed input was scaled (α), by the layers that read it.
    """

    linears: Mapping[str, LinearFormat] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    unscaled: tuple[str, ...] = ()
    cached: bool = False
    strengths: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerRecord:
        """Read what ``asdict`` wrote."""
        linears = {name: LinearFormat(**form) for name, form in value["linears"].items()}
        return cls(**{**value, "linears": linears, "unscaled": tuple(value["unscaled"])})


class Progress:
    """The finished layers of one quantization; another setting or source starts anew.

    Attributes:
        layers: records of the finished layers, in order.
    """

    def __init__(self, work: Path, fingerprint: str) -> None:
        """Read what ``work`` holds; delete it where it belongs to another quantization."""
        self._path = work / RECORD
        self._fingerprint = fingerprint
        self.layers: list[LayerRecord] = []
        stored = self._read()
        if stored.get("fingerprint") == fingerprint:
            self.layers = [LayerRecord.from_json(layer) for layer in stored["layers"]]
        else:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)

    def add(self, record: LayerRecord) -> None:
        """Count a layer as finished; its files must be complete."""
        self.layers.append(record)
        value = {"fingerprint": self._fingerprint, "layers": [asdict(layer) for layer in self.layers]}
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            return read_json_object(self._path, OWN_FILE)
        except UserError:  # no record yet
            return {}


def fingerprint_of(*parts: Any) -> str:
    """Return a sha256 over JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
