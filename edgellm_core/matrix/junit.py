"""Writes results as JUnit XML, the form that continuous integration services read.

The elements are those of Jenkins' ``junit-10.xsd`` as pytest writes them: the family is the class, the entry the name.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from edgellm_core.matrix.errors import JunitFileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.matrix.run import CaseResult, Outcome

ELEMENTS: Final[dict[Outcome, tuple[str, str]]] = {
    "failed": ("failure", "refused"),
    "crashed": ("error", "crashed"),
    "xpassed": ("failure", "xpassed"),
    "xfailed": ("skipped", "xfailed"),
    "skipped": ("skipped", "skipped"),
}
"""Outcome → element of the test case, and its type."""

NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold (XML 1.0, 2.2 Char); messages of compilers have them."""


def write_junit(path: Path, results: Sequence[CaseResult]) -> None:
    """Write all results as one test suite.

    Raises:
        JunitFileError: the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(junit_xml(results))
    except OSError as error:
        raise JunitFileError(path, str(error)) from error


def junit_xml(results: Sequence[CaseResult]) -> bytes:
    """Return the document in UTF-8; equal results give equal bytes."""
    counts = Counter(ELEMENTS[result.outcome][0] for result in results if result.outcome in ELEMENTS)
    totals = {
        "tests": str(len(results)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
        "time": f"{sum(result.seconds for result in results):.3f}",
    }
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", {"name": "edgellm matrix", **totals})
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            {"classname": result.case.family, "name": str(result.case.entry), "time": f"{result.seconds:.3f}"},
        )
        if result.outcome in ELEMENTS:
            tag, kind = ELEMENTS[result.outcome]
            child = ET.SubElement(case, tag, {"type": kind, "message": NOT_XML.sub("\ufffd", result.message)})
            child.text = NOT_XML.sub("\ufffd", result.details) or None
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"
