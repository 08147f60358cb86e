"""From the value of ``--calib-data`` to texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.data.builtin_text import builtin_description, builtin_texts
from edgellm_core.calibration.data.errors import (
    CalibrationTextFailedError,
    HubTextError,
    MissingDatasetsError,
    MissingTextError,
)
from edgellm_core.calibration.data.files import READERS, file_source
from edgellm_core.calibration.data.hub_text import KNOWN, HubDataSet, directory_source, hub_source
from edgellm_core.calibration.data.texts import TextSource
from edgellm_core.contract import CORE_CALIBRATION_DATA, CalibrationData
from edgellm_core.errors import EdgellmError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgellm_core.calibration.data.builtin_text import Split
    from edgellm_core.calibration.data.settings import CalibrationDataSettings

DEFAULT: Final = "cnn_dailymail"
"""Text of a calibration when none is asked for and the hub answers: what ModelOpt's examples calibrate with."""

_HUB_ID: Final = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?")


def builtin_source(split: Split) -> TextSource:
    """Return the text that every Python carries."""
    return TextSource(name=builtin_description(split), texts=builtin_texts(split))


def default_source(settings: CalibrationDataSettings, tell: Callable[[str], None]) -> TextSource:
    """Return the text for when none is asked for, and say which one it is.

    Args:
        settings: column and chat.
        tell: receives the sentence.
    """
    try:
        source = hub_source(KNOWN[DEFAULT], settings.column, chat=settings.chat)
    except (HubTextError, MissingDatasetsError) as error:
        source = builtin_source("calibration")
        tell(
            f"Calibration data: {source.name}, because no --calib-data was given and {DEFAULT} is out of reach: {error}"
        )
    else:
        tell(f"Calibration data: {source.name}, because no --calib-data was given.")
    return source


def named_source(
    name: str, settings: CalibrationDataSettings, packs: Mapping[str, type[CalibrationData]]
) -> TextSource:
    """Return the texts that a name, a path or a hub id stands for, in this order.

    Args:
        name: value of ``--calib-data``.
        settings: column and chat.
        packs: what plugins bring, by name.

    Raises:
        UnknownNameError: it is none of these.
        MissingTextError: it is a path, and nothing is there.
        UserError: the text can't be read; the classes in ``errors`` say why.
    """
    if name == "builtin":
        return builtin_source("calibration")
    if name in KNOWN:
        return hub_source(KNOWN[name], settings.column, chat=settings.chat)
    if name in packs:
        return TextSource(name=f"{name} (of a plugin)", texts=_pack_texts(name, packs[name]), streamed=True)
    path = Path(name).expanduser()
    if path.is_dir():
        return directory_source(path, None, settings.column, chat=settings.chat)
    if path.exists():
        return file_source(path, settings.column, chat=settings.chat)
    if path.suffix.lower() in READERS or path.is_absolute():
        raise MissingTextError(path)
    match = _HUB_ID.fullmatch(name)
    if match is None:
        hint = "A hub data set is given as owner/name or owner/name:config, a file with its suffix."
        raise UnknownNameError("calibration data", name, {*CORE_CALIBRATION_DATA, *packs}, hint=hint)
    data_set = HubDataSet(id=match["id"], config=match["config"])
    return hub_source(data_set, settings.column, chat=settings.chat)


def _pack_texts(name: str, data: type[CalibrationData]) -> Iterator[Any]:
    try:
        yield from data().texts()
    except EdgellmError:
        raise
    except Exception as error:  # foreign code runs here: anything it raises is its own failure
        raise CalibrationTextFailedError(name, error) from error
