"""Ports and the process_table that hold them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mqttkit.broker.backends import process_table
from mqttkit.broker.backends.process_table import ProcessId, identify, read_pid, start_ticks, write_pid
from mqttkit.broker.ports import free_port, nearby_free_port, port_owner, require_free
from mqttkit.errors import LifecycleError, PortTaken, UsageError


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_names_its_process_and_another_port(listener: int):
    with pytest.raises(PortTaken, match=rf"\(pid {os.getpid()}\).*--port \d+"):
        require_free("127.0.0.1", listener)


def test_a_free_port_does_not_raise_and_is_left_to_whoever_listens_next():
    port = free_port()
    require_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)) as server:
        assert server.getsockname() == ("127.0.0.1", port)
        with pytest.raises(PortTaken):
            require_free("127.0.0.1", port)


def test_a_port_of_a_closed_connection_is_free():
    """The side that closes first keeps the port in TIME_WAIT for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    require_free("127.0.0.1", port)
    assert port_owner(port) is None


def test_the_owner_of_a_free_port_is_nobody():
    assert port_owner(free_port()) is None


def test_an_ipv6_listener_is_seen():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert f"pid {os.getpid()}" in str(port_owner(server.getsockname()[1]))


def test_the_port_suggested_is_free(listener: int):
    port = nearby_free_port("127.0.0.1", listener)
    assert port != listener
    require_free("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused():
    with pytest.raises(LifecycleError, match=r"cannot listen on 192\.0\.2\.1"):
        require_free("192.0.2.1", 1883)
    with pytest.raises(UsageError, match="cannot listen on"):
        require_free("no.such.host.invalid", 1883)


@pytest.fixture
def sleeper(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path) as child:
        yield child
        child.kill()


def test_a_pid_that_was_given_to_a_later_process_is_not_ours(sleeper, tmp_path):
    process = identify(sleeper.pid)
    write_pid(tmp_path / "pid", process)
    assert read_pid(tmp_path / "pid") == process
    write_pid(tmp_path / "pid", ProcessId(process.pid, process.start - 1))
    assert read_pid(tmp_path / "pid") is None


@pytest.mark.parametrize("content", ["", "12", "{}", '{"pid": "x", "start": 1}'])
def test_a_broken_pid_file_names_no_process(tmp_path, content: str):
    (tmp_path / "pid").write_text(content)
    assert read_pid(tmp_path / "pid") is None


def test_a_process_is_found_by_its_directory(sleeper, tmp_path):
    found = process_table.find_by_directory(tmp_path, lambda arguments: "input()" in arguments)
    assert found is not None
    assert found.pid == sleeper.pid
    assert process_table.find_by_directory(tmp_path, lambda _arguments: False) is None


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = identify(child.pid)
        process_table.stop(process, seconds=0.2)
        assert not process.alive
        child.wait()
        assert child.returncode == -9


def test_a_zombie_is_not_alive_and_has_its_identity_until_it_is_reaped(sleeper):
    """A broker that ends at its start is still identified, so that its log tells the cause."""
    process = identify(sleeper.pid)
    sleeper.kill()
    assert process_table.wait_gone(process, 10)
    assert start_ticks(sleeper.pid) is None
    assert identify(sleeper.pid) == process
    sleeper.wait()
    with pytest.raises(LifecycleError, match="is gone"):
        identify(sleeper.pid)


def test_a_process_whose_first_thread_has_ended_is_alive():
    """The state is a zombie's, but the other threads still hold its sockets: a restart must wait for them."""
    script = "import ctypes, threading; threading.Thread(target=threading.Event().wait).start(); "
    command = [sys.executable, "-c", script + "print(1, flush=True); ctypes.CDLL(None).pthread_exit(None)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                os.sched_yield()
            assert identify(child.pid).alive
        finally:
            child.kill()
        assert process_table.wait_gone(identify(child.pid), 60)
