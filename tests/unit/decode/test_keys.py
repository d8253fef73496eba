"""The file of bind keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqttkit.decode.keys import read_keys
from mqttkit.errors import ConfigError

KEY = "231d39c1d7cc1ab1aee224cd096db932"


def test_keys_are_read_by_address(tmp_path: Path) -> None:
    """Comments and empty lines are skipped; spaces in a key do not matter."""
    file = tmp_path / "keys"
    file.write_text(f"# kitchen\n\n54-48-e6-8f-80-a5 {KEY} # BTHome\nA4:C1:38:00:00:01 aabbccddeeff 001122334455\n")
    assert read_keys(str(file)) == {
        "54:48:E6:8F:80:A5": bytes.fromhex(KEY),
        "A4:C1:38:00:00:01": bytes.fromhex("aabbccddeeff001122334455"),
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"kitchen {KEY}", ":1: 'kitchen' is not a MAC address"),
        (f"54:48:E6:8F:80:A5 {KEY[:-1]}x", ":1: the key is not hex"),
        (f"54:48:E6:8F:80:A5 {KEY[:-2]}", ":1: the key has 15 bytes"),
        ("54:48:E6:8F:80:A5", ":1: the key has 0 bytes"),
    ],
)
def test_an_error_names_the_line_and_hides_the_key(tmp_path: Path, line: str, problem: str) -> None:
    """A key in a log would be a leak."""
    file = tmp_path / "keys"
    file.write_text(line)
    with pytest.raises(ConfigError) as caught:
        read_keys(str(file))
    assert problem in str(caught.value)
    assert KEY[:8] not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match=r"cannot read bind keys .*none"):
        read_keys(str(tmp_path / "none"))
