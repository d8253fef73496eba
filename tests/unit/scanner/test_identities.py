"""The file of known devices: aliases, changing addresses, deny and allow, and reading it again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mqttkit.errors import ConfigError
from mqttkit.scanner import Advertisement
from mqttkit.scanner.filters import Filters
from mqttkit.scanner.identities import CHECK_SECONDS, resolves
from mqttkit.settings import ScannerSettings

IRK = "ec0234a357c8ad05341010a60a397d9b"
"""With RESOLVABLE, the sample data of the Core specification (Vol 3, Part H, D.7)."""
RESOLVABLE = "70:81:94:0D:FB:AA"
FILE = f"""
devices:
  kitchen: {{address: a4-c1-38-00-00-01, interval: 60}}
  phone: {{irk: {IRK}}}
  neighbour: {{address: "A4:C1:38:00:00:02", deny: true}}
"""


class House:
    """Filters with a file of identities and a clock."""

    def __init__(self, directory: Path, text: str = FILE) -> None:
        self.path = directory / "known.yaml"
        self.path.write_text(text)
        self.now = 0.0
        self.filters = Filters(ScannerSettings(identities_file=str(self.path)), clock=lambda: self.now)

    def hear(self, mac_address: str, address_type: str = "public") -> list[str | None]:
        """Return the aliases of what passes."""
        heard = Advertisement(mac_address=mac_address, address_type=address_type, timestamp=0)
        return [advertisement.alias for advertisement in self.filters.apply([heard])]

    def write(self, text: str) -> None:
        """Replace the file, and let the time pass until it is looked at."""
        other = self.path.with_suffix(".new")
        other.write_text(text)
        os.replace(other, self.path)
        self.now += CHECK_SECONDS


def test_sample_of_the_specification_resolves() -> None:
    """Another key does not, nor does another kind of address."""
    assert resolves(RESOLVABLE, bytes.fromhex(IRK))
    assert not resolves(RESOLVABLE, bytes(16))
    assert not resolves("B0:81:94:0D:FB:AA", bytes.fromhex(IRK))


def test_known_devices_get_their_names(tmp_path: Path) -> None:
    """By address, or by key; a public address is never resolved."""
    house = House(tmp_path)
    assert house.filters.active
    assert house.hear("A4:C1:38:00:00:01") == ["kitchen"]
    assert house.hear(RESOLVABLE, "random") == ["phone"]
    assert house.hear(RESOLVABLE) == [None]
    assert house.hear("11:22:33:44:55:66") == [None]


def test_denied_devices_and_early_advertisements_are_dropped_and_counted(tmp_path: Path) -> None:
    """The interval is per device."""
    house = House(tmp_path)
    house.hear("A4:C1:38:00:00:01")
    house.now = 59.9
    assert house.hear("A4:C1:38:00:00:01") == []
    house.now = 60.0
    assert house.hear("A4:C1:38:00:00:01") == ["kitchen"]
    assert house.hear("A4:C1:38:00:00:02") == []
    assert house.filters.dropped == {"interval": 1, "denied": 1}


def test_only_known_devices_pass_if_the_file_says_so(tmp_path: Path) -> None:
    """An allow list."""
    house = House(tmp_path, f"only_known: true\n{FILE}")
    assert house.hear("11:22:33:44:55:66") == []
    assert house.filters.dropped == {"unknown": 1}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Without a restart."""
    house = House(tmp_path)
    house.write(FILE.replace("kitchen", "attic"))
    assert house.hear("A4:C1:38:00:00:01") == ["attic"]


@pytest.mark.parametrize("text", ["[", "", "devices: {x: {}}", "devices: {x: {adress: 1}}"])
def test_a_broken_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """One error, which names the file."""
    house = House(tmp_path)
    house.write(text)
    assert house.hear("A4:C1:38:00:00:01") == ["kitchen"]
    house.now += 60
    assert house.hear("A4:C1:38:00:00:01") == ["kitchen"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(house.path) in record.getMessage()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("devices: {x: {address: kitchen}}", "is not a MAC address"),
        ("devices: {x: {irk: 0011}}", "irk is not 16 bytes in hex"),
        ("devices: {x: {irk: xyz}}", "irk is not 16 bytes in hex"),
        ("devices: {x: {}}", "give either address or irk"),
        ("devices: {x: {address: 'A4:C1:38:00:00:01', interval: -1}}", "interval must not be below 0"),
        ("devices:\n  x: {adress: 1}", ":2: unknown key 'adress'"),
        ("devices: 1", "must be a section"),
    ],
)
def test_an_invalid_file_is_an_error_at_the_start(tmp_path: Path, text: str, problem: str) -> None:
    """With the place."""
    with pytest.raises(ConfigError) as caught:
        House(tmp_path, text)
    assert problem in str(caught.value)
    assert "known.yaml" in str(caught.value)
