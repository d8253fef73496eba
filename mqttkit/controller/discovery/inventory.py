"""The devices that each local controller has found, in a controller's store, and what a new report changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mqttkit.controller.discovery.types import VOLATILE, device_key
from mqttkit.controller.store import Store, StoredDevice

MAX_GONE = 1_000
"""Devices of one controller that are remembered after they have gone; the oldest are deleted first."""


@dataclass(frozen=True)
class DeviceChanges:
    """How a scan differs from the last one."""

    new: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Devices that were not there, or gone, by key."""
    changed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Devices that are no longer there, as they were last."""

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.gone)

    def to_payload(self) -> dict[str, Any]:
        """Return the field `changes` of a report: keys of new and changed devices, and the gone ones as they were."""
        return {"new": list(self.new), "changed": list(self.changed), "gone": list(self.gone.values())}


class DeviceInventory:
    """Compares reports with the store and saves them there. One thread at a time may use it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._present: dict[str, dict[str, Mapping[str, Any]]] = {}
        """Present devices by controller and key, as the store has them."""
        self._last: dict[str, Sequence[Any]] = {}
        """The last list of devices of each controller, to recognise the same list quickly."""
        self._seen: dict[str, int] = {}
        """When the newest report of each controller was written."""
        self._saved: dict[str, int] = {}
        """The same, as the store has it."""
        self._undone = store.undone

    def compare(self, owner: str, devices: Sequence[Any]) -> DeviceChanges:
        """Return how `devices` differ from those that the store has of a controller."""
        self._check_undone()
        if self._last.get(owner) == devices:
            return DeviceChanges()
        before = self._load(owner)
        now = {key: one for one in devices if (key := device_key(one))}
        changed = {
            key: one for key, one in now.items() if key in before and before[key] != one and _differ(before[key], one)
        }
        new = {key: one for key, one in now.items() if key not in before}
        return DeviceChanges(new, changed, {key: one for key, one in before.items() if key not in now})

    def is_newest(self, owner: str, seen: int) -> bool:
        """Return whether no later report of a controller is known than one that was written at `seen`."""
        self._check_undone()
        if owner not in self._seen:
            self._seen[owner] = self._saved[owner] = self._store.last_report(owner)
        return seen >= self._seen[owner]

    def save(self, owner: str, devices: Sequence[Any], changes: DeviceChanges, *, seen: int) -> None:
        """Save a report that was written at `seen`, milliseconds since the epoch; `Store.commit` makes it last.

        Without changes, the store gets the time once a second.
        """
        self._seen[owner] = seen
        if not changes and 0 <= seen - self._saved.get(owner, 0) < 1_000:
            return
        self._saved[owner] = seen
        rows = [
            StoredDevice(owner, key, json.dumps(dict(one)), seen, 0)
            for key, one in {**changes.new, **changes.changed}.items()
        ]
        self._store.save_devices(owner, rows, list(changes.gone), seen=seen, max_gone=MAX_GONE)
        present = self._load(owner)
        present.update(changes.new | changes.changed)
        for key in changes.gone:
            del present[key]
        self._last[owner] = devices

    def _check_undone(self) -> None:
        """Forget what was saved last, if a roll-back has undone it."""
        if self._undone != self._store.undone:
            for known in (self._present, self._last, self._seen, self._saved):
                known.clear()
            self._undone = self._store.undone

    def _load(self, owner: str) -> dict[str, Mapping[str, Any]]:
        if owner not in self._present:
            rows = [row for row in self._store.devices(owner) if not row.gone]
            self._present[owner] = {row.key: json.loads(row.device) for row in rows}
        return self._present[owner]


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return _lasting(before) != _lasting(now)


def _lasting(device: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in device.items() if name not in VOLATILE}
