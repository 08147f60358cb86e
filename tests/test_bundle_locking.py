"""One writer at a time: real processes, which end as they should, die or wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from edgellm_core.bundle.errors import OutputLockedError, OutputNotWritableError
from edgellm_core.bundle.locking import lock_path, locked

HOLD = """
import sys, time
from pathlib import Path
from edgellm_core.bundle.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
COUNT = """
import sys
from pathlib import Path
from edgellm_core.bundle.locking import locked
out, number = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(40):
    with locked(out):
        value = int(number.read_text())
        number.write_text("")
        number.write_text(str(value + 1))
"""


def held(out, seconds=60.0):
    process = subprocess.Popen([sys.executable, "-c", HOLD, out, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.communicate()


def test_the_lock_is_gone_afterwards(tmp_path):
    with locked(tmp_path / "deep/out"):
        assert lock_path(tmp_path / "deep/out").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_with_the_owner(tmp_path):
    process = held(tmp_path / "out")
    refused = rf"'.*/out' is in use by process {process.pid} on \S+ since \d{{4}}-\S+ \(.*\), and --no-wait was given"
    with pytest.raises(OutputLockedError, match=refused), locked(tmp_path / "out", wait=False):
        pass
    end(process)


def test_the_owner_stays_readable_for_all_that_wait(tmp_path):
    process = held(tmp_path / "out")
    for _ in range(3):
        with (
            pytest.raises(OutputLockedError, match=f"process {process.pid} "),
            locked(tmp_path / "out", wait=False),
        ):
            pass
    end(process)


def test_one_waits_until_the_owner_ends_and_says_so(tmp_path):
    process = held(tmp_path / "out", 0.5)
    events = []
    with locked(tmp_path / "out", listener=events.append):
        assert process.wait(timeout=5) == 0
    assert [event.event for event in events] == ["start", "note", "done"]
    assert f"is in use by process {process.pid} " in events[1].message
    end(process)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    process = held(tmp_path / "out")
    end(process)
    assert lock_path(tmp_path / "out").is_file()
    with locked(tmp_path / "out", wait=False):
        assert f'"pid": {os.getpid()}' in lock_path(tmp_path / "out").read_text()
    assert list(tmp_path.iterdir()) == []


def test_two_names_of_one_place_have_one_lock(tmp_path):
    (tmp_path / "real/out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/out")
    process = held(tmp_path / "real/out")
    with pytest.raises(OutputLockedError, match="is in use"), locked(tmp_path / "link", wait=False):
        pass
    end(process)


def test_two_threads_of_one_process_exclude_each_other(tmp_path):
    with (
        locked(tmp_path / "out"),
        pytest.raises(OutputLockedError, match="is in use by process"),
        locked(tmp_path / "out", wait=False),
    ):
        pass


def test_of_many_processes_one_at_a_time_goes_on_though_each_removes_the_lock(tmp_path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", COUNT, tmp_path / "sub/out", tmp_path / "number"]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "160"
    assert list((tmp_path / "sub").glob("*")) == []


def test_one_who_waits_can_be_interrupted(tmp_path):
    owner = held(tmp_path / "out")
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1)
    waiting.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in waiting.communicate(timeout=5)[1]
    end(owner)


@pytest.mark.parametrize("length", [242, 255])
def test_a_name_that_leaves_no_room_for_work_directory_and_lock_is_refused(length, tmp_path):
    with pytest.raises(OutputNotWritableError, match="File name too long"), locked(tmp_path / ("x" * length)):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    lock_path(tmp_path / "out").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputNotWritableError, match="symbolic links"), locked(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
