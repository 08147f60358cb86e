"""Every reader, on damaged input: it is read, or refused with one sentence, and soon. ``make fuzz`` takes longer."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoint"))

from damage import damaged_bytes, damaged_json
from readers import READERS

from edgellm_core.errors import LONGEST_MESSAGE, EdgellmError

SECONDS = 10
"""What one damaged file may take; a busy machine included."""

COSTLY_SHARE = 5
"""Readers that look at a whole folder take a tenth of a second, and get so many times fewer examples."""

LASTING = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of sound input for each way to write one."""
    made = {}
    for write in {reader.write: None for reader in READERS}:
        made[write] = tmp_path_factory.mktemp(write.__name__)
        write(made[write])
    return made


def read_damaged(reader, folder, data):
    """Damage a file, read it, and put it back."""
    file = folder / reader.file
    sound = file.read_bytes()
    is_json = file.suffix == ".json" and data.draw(st.integers(0, 3))
    file.write_bytes(data.draw(damaged_json(sound) if is_json else damaged_bytes(sound)))
    start = time.monotonic()
    message = ""
    try:
        reader.read(folder)
    except EdgellmError as error:
        message = str(error)
    finally:
        file.write_bytes(sound)
    assert time.monotonic() - start < SECONDS
    assert len(message) <= LONGEST_MESSAGE + len(" […] ")


@pytest.mark.parametrize("reader", READERS, ids=lambda r: r.name)
def test_sound_input_is_read(folders, reader):
    reader.read(folders[reader.write])


@pytest.mark.parametrize("reader", [reader for reader in READERS if not reader.costly], ids=lambda r: r.name)
@LASTING
@given(data=st.data())
def test_damaged_input_is_read_or_refused(folders, reader, data):
    read_damaged(reader, folders[reader.write], data)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.costly], ids=lambda r: r.name)
@settings(LASTING, max_examples=max(1, settings.default.max_examples // COSTLY_SHARE))
@given(data=st.data())
def test_damaged_models_are_described_or_refused(folders, reader, data):
    read_damaged(reader, folders[reader.write], data)
