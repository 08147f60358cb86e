"""Checks that a family is known to fail, from ``known_failures`` in its ``matrix.yaml``.

The key maps a check to the reason, for example ``L1-dynamic_shapes: traced for one token at a time``. Each is a strict
xfail: as soon as the check passes, the run fails until the line is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.testing.errors import KnownFailuresError
from edgellm_core.yaml_files import YamlFileError, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.contract import ModelFamily

KEY: Final = "known_failures"


def known_failures(family: ModelFamily) -> Mapping[str, str]:
    """Return check → reason.

    Raises:
        KnownFailuresError: malformed, or it names a check that does not exist.
    """
    from edgellm_core.testing.conformance import CHECKS

    matrix = _read_matrix(family)
    stated = matrix.get(KEY) or {} if isinstance(matrix, dict) else {}
    if not isinstance(stated, dict) or not all(isinstance(reason, str) and reason for reason in stated.values()):
        raise KnownFailuresError(family.name, "must map a check to its reason, for example L1-dynamic_shapes: why.")
    for name in stated:
        if name not in CHECKS:
            listed = ", ".join(CHECKS)
            raise KnownFailuresError(family.name, f"names {name!r}, which is no check. The checks are: {listed}.")
    return stated


def _read_matrix(family: ModelFamily) -> Any:
    """Return the contents of the file; None where there is none, which level 0 finds."""
    path = family.folder() / "matrix.yaml"
    if not path.is_file():
        return None
    try:
        return read_yaml(path, path, expected="a mapping", error=YamlFileError).data
    except YamlFileError as error:
        raise KnownFailuresError(family.name, f"can't be read: {error}") from error
