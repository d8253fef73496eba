"""Modules that paho imports and a plain TCP connection never uses, loaded at their first use.

`ssl`, `urllib.request` and `hashlib` bring OpenSSL, http.client and email along: half of the memory of a
small publisher. While paho is imported a stand-in sits in `sys.modules`; afterwards only paho holds it, so
that `import ssl` elsewhere finds the real module.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator

DEFERRED = ("ssl", "urllib.request", "hashlib")
UNUSED = ("socks",)
"""PySocks, which paho imports if it is there: our own transport speaks to proxies."""


class DeferredModule(types.ModuleType):
    """A module that is imported when one of its attributes is asked for."""

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def deferred_imports(names: tuple[str, ...] = DEFERRED) -> Iterator[None]:
    """Import nothing but a stand-in for each of `names` that is not loaded yet, while the body runs."""
    stand_ins = {name: DeferredModule(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    absent = {name: None for name in UNUSED if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None makes the import fail
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
                _bind_to_parent(name, stand_in)


def _bind_to_parent(name: str, stand_in: DeferredModule) -> None:
    """Let `package.module` reach the stand-in; importing the real module later replaces it."""
    package, _, attribute = name.rpartition(".")
    if package and not hasattr(sys.modules[package], attribute):
        setattr(sys.modules[package], attribute, stand_in)
