"""The files of the page, read once: a request never becomes a path."""

from __future__ import annotations

from pathlib import Path

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content type by the end of the file's name; other files are not served."""


def static_files() -> dict[str, tuple[str, bytes]]:
    """Return content type and content of each file, by its path below `static/`."""
    folder = Path(__file__).with_name("static")
    return {
        path.relative_to(folder).as_posix(): (KINDS[path.suffix], path.read_bytes())
        for path in folder.rglob("*")
        if path.suffix in KINDS
    }
