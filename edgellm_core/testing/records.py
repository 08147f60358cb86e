"""The record of a model that passed level 4: what allows ``status: verified`` in ``model_registry.yaml``.

Records lie in the folder ``conformance`` at the root of the repository, one ``MODEL-PRECISION.json`` each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from edgellm_core.bundle.manifest import (
    EngineRecord,
    FamilyRecord,
    Record,
    SourceRecord,
    SurgeryRecord,
    VerificationRecord,
)
from edgellm_core.testing.errors import RecordFileError

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.bundle import Manifest

SCHEMA_VERSION: Final = 1


class ConformanceRecord(Record):
    """One model in one precision that was built whole and passed.

    Attributes:
        schema_version: version of this format.
        model: name in the registry.
        precision: of the graph.
        target: form of the graph.
        date: day of the run, UTC.
        source: the checkpoint, with its digest.
        family: which plugin handled it.
        versions: package → version that took part.
        verification: how the graph was compared with the original.
        surgery: what each rule did.
        engine: the engine that was built; None where no builder was there.
        bytes: size of the bundle.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    precision: str
    target: str
    date: str
    source: SourceRecord
    family: FamilyRecord
    versions: dict[str, str]
    verification: VerificationRecord
    surgery: tuple[SurgeryRecord, ...]
    engine: EngineRecord | None
    bytes: int

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.model}-{self.precision}.json"


def make_record(model: str, manifest: Manifest) -> ConformanceRecord:
    """Return the record of a bundle that was built and passed today."""
    from datetime import datetime, timezone
    from pathlib import PurePath

    source = manifest.source
    if source.kind in {"directory", "gguf"}:  # where it lay says nothing elsewhere
        source = source.model_copy(update={"id": PurePath(source.id).name})
    return ConformanceRecord(
        model=model,
        precision=manifest.precision,
        target=manifest.target,
        date=datetime.now(timezone.utc).date().isoformat(),
        source=source,
        family=manifest.family,
        versions=manifest.versions,
        verification=manifest.verification,
        surgery=manifest.surgery,
        engine=manifest.engine,
        bytes=sum(file.bytes for file in manifest.files),
    )


def write_record(directory: Path, record: ConformanceRecord) -> Path:
    """Write a record into a folder, which is made if need be; return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / record.file_name
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path


def read_record(path: Path) -> ConformanceRecord:
    """Read a record.

    Raises:
        RecordFileError: it is not there, or not what this schema says.
    """
    try:
        return ConformanceRecord.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except OSError as error:
        raise RecordFileError(path, f"can't be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordFileError(path, f"has a wrong value at {where!r}: {first['msg']}") from error
