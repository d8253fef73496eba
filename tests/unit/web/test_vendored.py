"""The vendored libraries are what npm has, with their licences."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mqttkit.web.static_files import static_files

VENDOR = Path(__file__).parents[3] / "mqttkit" / "web" / "static" / "vendor"
VERSIONS = json.loads((VENDOR / "versions.json").read_text())


def test_each_file_is_unchanged() -> None:
    found = {path.name for path in VENDOR.iterdir() if path.suffix in (".js", ".css")}
    assert found == set(VERSIONS)
    for name, entry in VERSIONS.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_each_package_has_its_licence() -> None:
    for entry in VERSIONS.values():
        text = (VENDOR / f"LICENSE.{entry['package']}").read_text()
        assert {"MIT": "Permission is hereby granted", "Apache-2.0": "Apache License"}[entry["licence"]] in text


def test_the_libraries_are_small() -> None:
    assert sum((VENDOR / name).stat().st_size for name in VERSIONS) < 72 * 1024


def test_the_page_has_no_inline_script_or_style() -> None:
    page = static_files()["index.html"][1].decode()
    assert "<style" not in page
    assert "style=" not in page
    assert "onclick" not in page
    assert page.count("<script ") == page.count("<script src=")
    assert "<script>" not in page


def test_the_page_never_writes_markup() -> None:
    own = {name: content for name, (_, content) in static_files().items() if not name.startswith("vendor/")}
    for name, content in own.items():
        for word in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval(", b"new Function"):
            assert word not in content, name
