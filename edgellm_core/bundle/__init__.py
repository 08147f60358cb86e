"""The bundle: what a build publishes, its manifest, and how it is checked when it is loaded."""

from __future__ import annotations

from edgellm_core.bundle.files import file_records
from edgellm_core.bundle.loading import Bundle, load_bundle
from edgellm_core.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    AnswersRecord,
    EngineRecord,
    FamilyRecord,
    FileRecord,
    LeftOutRecord,
    Manifest,
    ProfileRecord,
    QualityRecord,
    QuantizationRecord,
    RuntimeRecord,
    SampleRecord,
    SourceRecord,
    StageRecord,
    SurgeryRecord,
    TargetPluginRecord,
    TokenizerRecord,
    VerificationRecord,
    read_manifest,
    write_manifest,
)
from edgellm_core.bundle.publishing import check_output, publish

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "AnswersRecord",
    "Bundle",
    "EngineRecord",
    "FamilyRecord",
    "FileRecord",
    "LeftOutRecord",
    "Manifest",
    "ProfileRecord",
    "QualityRecord",
    "QuantizationRecord",
    "RuntimeRecord",
    "SampleRecord",
    "SourceRecord",
    "StageRecord",
    "SurgeryRecord",
    "TargetPluginRecord",
    "TokenizerRecord",
    "VerificationRecord",
    "check_output",
    "file_records",
    "load_bundle",
    "publish",
    "read_manifest",
    "write_manifest",
]
