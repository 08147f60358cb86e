"""The conformance kit: checks that every family has to pass, level by level.

``edgellm plugins test NAME`` runs them. A pack's own tests take them over with one line::

    from edgellm_core.testing.conformance import *

and the option ``--edgellm-family NAME``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.testing.conformance.test_l0_static import (
    test_chat_template_renders,
    test_claims_are_held,
    test_imports_are_light,
    test_matrix_parses,
    test_readme_names_the_claims,
    test_tiny_config_is_the_familys,
    test_versions_fit,
)
from edgellm_core.testing.conformance.test_l1_tiny import (
    test_chat_template_end_to_end,
    test_dynamic_shapes,
    test_io_contract,
    test_parity_chunked,
    test_parity_decode,
    test_parity_padding,
    test_parity_prefill,
    test_rule_counts,
    test_rules_are_idempotent,
    test_stamped_equals_full,
)
from edgellm_core.testing.conformance.test_l2_quantized import test_schemes
from edgellm_core.testing.conformance.test_l3_engine import test_engine_tensorrt, test_engine_tensorrt_rtx
from edgellm_core.testing.conformance.test_l4_weights import test_build
from edgellm_core.testing.kit.marker import CHECK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "test_build",
    "test_chat_template_end_to_end",
    "test_chat_template_renders",
    "test_claims_are_held",
    "test_dynamic_shapes",
    "test_engine_tensorrt",
    "test_engine_tensorrt_rtx",
    "test_imports_are_light",
    "test_io_contract",
    "test_matrix_parses",
    "test_parity_chunked",
    "test_parity_decode",
    "test_parity_padding",
    "test_parity_prefill",
    "test_readme_names_the_claims",
    "test_rule_counts",
    "test_rules_are_idempotent",
    "test_schemes",
    "test_stamped_equals_full",
    "test_tiny_config_is_the_familys",
    "test_versions_fit",
]


def _by_level() -> dict[str, Callable[..., None]]:
    """Return level and name → check, in the order of the levels."""
    functions = [globals()[name] for name in __all__]
    levels = {f: mark.kwargs["level"] for f in functions for mark in f.pytestmark if mark.name == CHECK}
    ordered = sorted(levels, key=lambda f: (levels[f], f.__code__.co_firstlineno))
    return {f"L{levels[f]}-{f.__name__.removeprefix('test_')}": f for f in ordered}


CHECKS: Final[Mapping[str, Callable[..., None]]] = _by_level()
"""``L1-stamped_equals_full`` → the check, in the order of the levels."""
