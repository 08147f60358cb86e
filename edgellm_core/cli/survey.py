"""The part of ``detect --deep`` that says what a trace captures, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.bundle.manifest import TwinRecord
    from edgellm_core.tracing.survey import Form, Survey


def survey_lines(detection: Any) -> Iterator[str]:
    """Yield the lines about a ``DeepDetection``'s survey."""
    survey: Survey = detection.survey
    yield ""
    yield from map(str, detection.left_out)
    yield from _twin_lines(detection.twin)
    if survey.family_hooks:
        yield f"Family {detection.selection.family.name!r} brings {', '.join(map(_call, survey.family_hooks))}."
    if survey.refusal is not None:
        if survey.refusal_hook:
            yield f"What can't be traced is handled by a family's {_call(survey.refusal_hook)}."
        return
    yield f"One forward of {survey.model} without weights:"
    for group in survey.groups:
        yield f"  {group.label}"
        for form in group.forms:
            yield f"    {form.aspect:<10} {form.status:<9} {form.what}{_tail(form)}"
    if plain := survey.plain():
        yield f"{len(plain)} {'forms stay' if len(plain) > 1 else 'form stays'} plain operators, exported as computed."
    else:
        yield "Every form is a semantic operator."


def _twin_lines(twin: TwinRecord | None) -> Iterator[str]:
    """Write what the twin proved, where there is a length at which behaviour changes."""
    if twin is not None and twin.thresholds:
        names = ", ".join(f"{one.name} ({one.value}, {one.run_as} in the twin)" for one in twin.thresholds)
        yield f"A small twin is right on both sides of {names}."


def _tail(form: Form) -> str:
    """Write how often a form occurs, and which hook handles it."""
    count = f" ×{form.count}" if form.count > 1 else ""
    verb = {"captured": "corrected by", "wrapped": "by", "plain": "handled by"}[form.status]
    return count + (f"   ({verb} {_call(form.hook)})" if form.hook else "")


def _call(hook: str) -> str:
    """Write a method with parentheses, an attribute without."""
    return hook if hook in {"modeled_as", "harmless_config_keys"} else f"{hook}()"
