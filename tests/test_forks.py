"""A process that forks while other threads learn, save and compile has a child that can do all of it."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from aded import Representative, create_drafter
from aded.forks import ForkLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

WAIT_S = 20.0  # seconds after which a child counts as hanging: it takes a tenth of one


def child_ends(work: object) -> bool:
    """Whether a forked child does some work and ends."""
    child = os.fork()
    if not child:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        finally:
            os._exit(1)
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_others_learn_and_save(tmp_path: Path) -> None:
    table, text, stop = Representative(memory_mb=1), np.arange(500, dtype=np.int32) % 40, threading.Event()
    drafter = create_drafter("adaptive", representative=table)
    table.learn_text(text)

    def learning() -> None:
        while not stop.is_set():
            table.learn_text(text)

    def saving() -> None:
        while not stop.is_set():
            drafter.sharing(tenant="a").start([1, 2, 3])
            drafter.save(tmp_path / "state")

    def work() -> None:
        table.learn_text(text)
        drafter.sharing(tenant="b").start([1, 2, 3])
        drafter.save(tmp_path / "childs")
        assert table.arrays.counts.max() >= 2

    threads = [threading.Thread(target=each) for each in (learning, saving)]
    for thread in threads:
        thread.start()
    try:
        assert all(child_ends(work) for _ in range(12))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    table.learn_text(text)  # and in the parent the lock is free


def test_a_lock_held_by_another_thread_is_waited_for_and_copies_have_their_own() -> None:
    lock, held = ForkLock(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    started = time.monotonic()
    assert child_ends(lambda: lock.acquire())
    assert time.monotonic() - started > 0.1
    thread.join()
    with lock:  # who holds it may fork
        assert child_ends(lambda: lock.acquire())
    assert deepcopy(lock) is not lock
    assert isinstance(pickle.loads(pickle.dumps(lock)), ForkLock)
