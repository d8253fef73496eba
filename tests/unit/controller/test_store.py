"""The store: identifiers, nonces, numbers, dead letters; crashes and threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.controller.messages.envelope import new_message_id
from mqttkit.controller.store import Novelty, Store, StoredPolicy
from mqttkit.errors import MqttkitError, StoreFailed


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory."""
    opened = Store()
    yield opened
    opened.close()


def test_the_oldest_ids_are_forgotten_first(store: Store) -> None:
    """The bound holds within its slack, and what is newest stays."""
    store.max_ids = 3_000
    ids = [new_message_id(number) for number in range(8_000)]
    for number, message_id in enumerate(ids):
        store.remember(message_id, b"d" * 16)
        if number % 100 == 99:
            store.commit()
    assert 3_000 <= store.count() <= 4_000
    assert store.look_up(ids[-3_000], b"d" * 16) is Novelty.SAME
    assert store.look_up(ids[0], b"d" * 16) is Novelty.NEW


def test_nonces_are_forgotten_when_no_fresh_message_can_have_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their age."""
    clock = [1_000_000.0]
    monkeypatch.setattr("mqttkit.controller.store.time.time", lambda: clock[0])
    for number in range(1_000):
        store.remember_nonce(number.to_bytes(16, "big"), b"d" * 16)
    clock[0] += store.nonce_seconds + 1
    for number in range(1_000, 2_000):
        store.remember_nonce(number.to_bytes(16, "big"), b"d" * 16)
    store.commit()
    known = [store.look_up_nonce(number.to_bytes(16, "big"), b"d" * 16) for number in range(2_000)]
    assert known == [Novelty.NEW] * 1_000 + [Novelty.SAME] * 1_000


def test_numbers_never_come_twice(tmp_path: Path) -> None:
    """Not after a crash either: a crash may skip some."""
    path = tmp_path / "store.db"
    taken: list[int] = []
    for _ in range(3):
        crashed = Store(path)
        taken += [crashed.next_number("sequence") for _ in range(1_500)]
        crashed._db.rollback()
        crashed._db.close()
    assert taken == sorted(set(taken))
    assert taken[0] == 1


def test_threads_take_numbers_and_note_moments_while_another_commits(tmp_path: Path) -> None:
    """Nothing fails and no number comes twice: a heartbeat and a publisher beside the worker."""
    store = Store(tmp_path / "store.db")

    def publish(_: int) -> list[int]:
        taken = []
        for _ in range(400):
            taken.append(store.next_number("sequence"))
            store.save_time("online", 1.0)
        return taken

    def work(_: int) -> list[int]:
        for _ in range(400):
            store.remember(new_message_id(), b"d" * 16)
            store.commit()
        return []

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(task, number) for number, task in enumerate((publish, publish, work))]
        taken = [number for one in running for number in one.result(60)]
    assert sorted(taken) == list(range(1, 801))
    assert store.count() == 400
    store.close()


def test_a_commit_survives_a_power_failure(tmp_path: Path) -> None:
    """SQLite writes the log through to the disk at each commit: a number that was used is never given again."""
    store = Store(tmp_path / "store.db")
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()


def test_numbers_continue_after_one_that_was_seen(tmp_path: Path) -> None:
    """Within the reserved block, beyond it, and after a restart; a lower number changes nothing."""
    store = Store(tmp_path / "store.db")
    assert store.next_number("policy") == 1
    for used, expected in ((7, 8), (3, 9), (5_000, 5_001)):
        store.skip_numbers("policy", used)
        assert store.next_number("policy") == expected
    store.close()
    again = Store(tmp_path / "store.db")
    again.skip_numbers("policy", 9_000)
    assert again.next_number("policy") == 9_001
    again.close()


def test_an_older_policy_does_not_replace_a_newer_one_in_the_store(store: Store) -> None:
    """Two threads may save: the one that publishes and the one that receives."""
    for version in (2, 1):
        store.save_policy("global", StoredPolicy(version, None, "{}"))
    found = store.policy("global")
    assert found is not None and found.version == 2


def test_dead_letters_are_bounded(store: Store) -> None:
    """The oldest make room."""
    store.max_dead = 3
    for number in range(5):
        store.add_dead_letter("t", bytes([number]), "r")
    assert [data for _, data, _ in store.dead_letters()] == [b"\2", b"\3", b"\4"]


def test_a_store_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    """The file is named."""
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, whatever else it may be" * 100)
    with pytest.raises(MqttkitError, match=r"cannot open the controller's store .*store\.db"):
        Store(path)


KILLED = """
import sys
from pathlib import Path
from mqttkit.controller.store import Store
from mqttkit.controller.messages.envelope import new_message_id
store = Store(Path(sys.argv[1]))
while True:
    batch = [new_message_id() for _ in range(20)]
    for message_id in batch:
        store.remember(message_id, b"d" * 16)
    store.commit()
    print("\\n".join(batch), flush=True)
"""


def test_the_store_knows_every_committed_id_after_a_kill(tmp_path: Path) -> None:
    """Killed with SIGKILL in mid-transaction, three times: what was acknowledged is known, nothing is damaged."""
    path = tmp_path / "store.db"
    committed: list[str] = []
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            committed += [process.stdout.readline().strip() for _ in range(200)]
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
    survivor = Store(path)
    assert all(survivor.look_up(message_id, b"d" * 16) is Novelty.SAME for message_id in committed)
    assert survivor._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    survivor.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["handle", "commit", "crash"])), max_size=40))
def test_each_message_counts_once_whatever_crashes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    """The invariant: what was committed is a duplicate for ever, what was not is new again."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    ids = [new_message_id(number) for number in range(10)]
    store, committed, pending = Store(path), set[int](), set[int]()
    for number, step in steps:
        if step == "handle":
            seen = store.look_up(ids[number], b"d" * 16)
            assert (seen is Novelty.SAME) == (number in committed | pending)
            if seen is Novelty.NEW:
                store.remember(ids[number], b"d" * 16)
                pending.add(number)
        elif step == "commit":
            store.commit()
            committed |= pending
            pending.clear()
        else:
            store._db.rollback()
            store._db.close()
            store = Store(path)
            pending.clear()
    store.close()


def test_threads_share_a_store_and_nothing_is_cut_short() -> None:
    """Reads, notes, commits and roll-backs at once; each fails by StoreFailed or not at all."""
    store, mistakes, end = Store(), list[BaseException](), time.monotonic() + 0.5

    def work(step: Callable[[], object]) -> None:
        try:
            while time.monotonic() < end:
                step()
        except BaseException as error:  # told below
            mistakes.append(error)

    steps = (store.count, store.commit, store.roll_back, lambda: store.policy("a"), lambda: store.save_time("x", 1.0))
    threads = [threading.Thread(target=work, args=(step,)) for step in (*steps, lambda: store.next_number("n"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mistakes == []
    store.close()
    with pytest.raises(StoreFailed, match="closed database"):
        store.commit()
