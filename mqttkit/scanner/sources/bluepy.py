"""A source that scans with bluepy and its helper program; the only module that imports bluepy."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from bluepy import btle

from mqttkit.errors import AdapterMissing, AdapterStuck, AdvertisementError, HelperMissing, MqttkitError
from mqttkit.scanner.advertisement import Advertisement, normalise_mac
from mqttkit.scanner.sources.machine import Machine, adapter_number, permission_missing, reset_hint
from mqttkit.scanner.sources.radio import RETRY, SILENCE, RadioSource

ANSWER = 10.0
"""Seconds within which the helper must answer a command."""
_TICK = 0.25
"""Seconds between checks that the scan continues."""
_LONGEST_LINE = 1 << 16
_MACHINE = Machine()
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AdvertisementError)
"""Exceptions of bluepy for a malformed line of its helper."""

_INVALID_INDEX, _RFKILLED, _PERMISSION_DENIED = 0x11, 0x12, 0x14
"""Statuses of the kernel's Bluetooth management interface (bluez, doc/mgmt-api.txt)."""

_BUILD = "Try: apt-get install libglib2.0-dev pkg-config && pip install --force-reinstall --no-cache-dir bluepy"


class BluepySource(RadioSource):
    """Scan with bluepy's Scanner, actively or passively, on one adapter.

    The source parses the raw data itself, because bluepy keeps one of two manufacturer fields and mixes in fields
    of earlier advertisements.
    """

    def __init__(
        self,
        *,
        adapter: str | None = None,
        active: bool = False,
        wait: bool = False,
        silence: float = SILENCE,
        retry: float = RETRY,
        answer: float = ANSWER,
        machine: Machine = _MACHINE,
    ) -> None:
        super().__init__("bluepy" if adapter is None else f"bluepy {adapter}", wait=wait, silence=silence, retry=retry)
        self._number = adapter_number(adapter)
        self._adapter = f"hci{self._number}"
        self._named = None if adapter is None else self._adapter
        self._active = active
        self._answer = answer
        self._machine = machine

    def scan(self) -> None:
        """Implement RadioSource."""
        scanner = _Scanner(self._number, self._answer)
        scanner.withDelegate(_Delegate(self, scanner, active=self._active, adapter=self._named))
        try:
            with self._translated():
                scanner.start(passive=not self._active)
                self.begun()
                while self.check():
                    self._listen(scanner)
        finally:
            scanner.end()

    def _listen(self, scanner: _Scanner) -> None:
        """Receive advertisements for a tick; count a malformed line."""
        try:
            scanner.process(_TICK)
        except (*_MALFORMED, btle.BTLEInternalError) as error:
            self.malformed(error)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the exceptions of bluepy and the operating system into a MqttkitError."""
        try:
            yield
        except btle.BTLEException as error:
            raise self._error(error) from error
        except TimeoutError as error:
            raise AdapterStuck(str(error), hint=reset_hint(self._adapter)) from error
        except BrokenPipeError as error:
            raise _helper_ended() from error
        except OSError as error:
            raise HelperMissing(f"cannot run {btle.helperExe}: {error.strerror}", hint=_BUILD) from error

    def _error(self, error: btle.BTLEException) -> MqttkitError:
        """Return the cause of what bluepy only calls a management error."""
        if error.estat == _PERMISSION_DENIED:
            return permission_missing(btle.helperExe)
        if error.estat == _RFKILLED:
            return AdapterMissing(
                f"Bluetooth adapter {self._adapter} is switched off", hint="Try: rfkill unblock bluetooth"
            )
        if error.estat == _INVALID_INDEX:
            return AdapterMissing(f"no Bluetooth adapter {self._adapter}", hint="See: ls /sys/class/bluetooth")
        return self._machine.why_not(self._adapter, btle.helperExe, str(error))


def _helper_ended() -> HelperMissing:
    return HelperMissing(f"bluepy's helper exited unexpectedly: {btle.helperExe}", hint=_BUILD)


class _Delegate:
    """Receives each advertisement from bluepy's Scanner."""

    def __init__(self, source: RadioSource, scanner: _Scanner, *, active: bool, adapter: str | None) -> None:
        self._source = source
        self._scanner = scanner
        self._active = active
        self._adapter = adapter

    def handleDiscovery(self, entry: btle.ScanEntry, is_new: bool, is_new_data: bool) -> None:  # noqa: N802  # bluepy's name
        """Pass the advertisement on, and clear bluepy's list of devices.

        The list would grow without limit with random addresses, and an address that changes its type would end the
        scan with an exception.
        """
        self._scanner.clear()
        self._source.heard(
            Advertisement.from_raw(
                entry.rawData or b"",
                mac_address=normalise_mac(entry.addr),
                address_type=entry.addrType or "public",
                rssi=entry.rssi if -127 < entry.rssi <= 20 else None,
                timestamp=time.time(),
                # the helper has no flags in a passive scan
                connectable=entry.connectable if self._active else None,
                adapter=self._adapter,
            )
        )


class _Scanner(btle.Scanner):  # type: ignore[misc]  # bluepy has no types
    """bluepy's Scanner with a time limit for the helper's answers and a helper that always ends."""

    def __init__(self, number: int, answer: float) -> None:
        super().__init__(number)
        self._answer = answer

    def _startHelper(self, iface: int | None = None) -> None:  # noqa: N802  # bluepy's name
        """Start the helper in its own session, so that Ctrl-C in the terminal does not reach it."""
        helper: Any = _Helper(
            [btle.helperExe, str(iface)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._poller = helper.stdout = _Lines(helper.stdout, self._answer)
        self._helper = helper

    def _stopHelper(self) -> None:  # noqa: N802  # bluepy's name
        """Do nothing: `end` stops the helper."""

    def _waitResp(self, wantType: Any, timeout: float | None = None) -> Any:  # noqa: N802, N803  # bluepy's name
        """Raise if the adapter refused a command; `start` handles a busy adapter and ignores other refusals."""
        response = super()._waitResp(wantType, timeout)
        if response and response["rsp"][0] == "mgmt" and response.get("code") not in (["success"], ["busy"]):
            raise btle.BTLEManagementError(f"the adapter answered {response.get('code')}", response)
        return response

    def end(self) -> None:
        """Stop the scan and the helper; kill a helper that does not exit within a second."""
        helper = self._helper
        if helper is None:
            return
        with contextlib.suppress(OSError):
            helper.stdin.write(f"{self._cmd()}end\nquit\n")
            helper.stdin.flush()
        with contextlib.suppress(OSError):
            helper.stdin.close()
        try:
            helper.wait(1.0)
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()
        helper.stdout.close()


class _Helper(subprocess.Popen[str]):
    """The helper process. bluepy calls `poll` before it reads, and would lose the last lines of an exited helper."""

    def poll(self) -> None:
        """Return None: the end of the output shows that the helper exited."""


class _Lines:
    """The helper's output as lines, with its own `poll`.

    bluepy polls the pipe, but reads from a text buffer in which further lines may already wait.
    """

    def __init__(self, pipe: Any, answer: float) -> None:
        self._pipe = pipe
        self._answer = answer
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._buffer = b""

    def poll(self, milliseconds: float) -> list[int]:
        """Return a non-empty list if a line or the end of the output arrives within the time."""
        deadline = time.monotonic() + milliseconds / 1000
        while b"\n" not in self._buffer:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return []
            read = os.read(self._pipe.fileno(), _LONGEST_LINE)
            self._buffer = self._buffer[-_LONGEST_LINE:] + read
            if not read:
                break
        return [self._pipe.fileno()]

    def readline(self) -> str:
        """Return a line; raise BrokenPipeError at the end, or TimeoutError if no line arrives in time."""
        if not self.poll(self._answer * 1000):
            raise TimeoutError(f"bluepy's helper did not answer for {self._answer:g} s")
        if not self._buffer:
            raise BrokenPipeError
        line, end, self._buffer = self._buffer.partition(b"\n")
        return (line + end).decode("utf-8", "replace")

    def close(self) -> None:
        """Close the pipe."""
        self._pipe.close()
