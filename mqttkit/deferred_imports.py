"""Modules that paho and bleak import although a plain connection or a scan never uses them, loaded at first use.

`ssl`, `urllib.request` and `hashlib` load OpenSSL, http.client and email: half of the memory of a small publisher.
While paho or bleak is imported a stand-in sits in `sys.modules`; afterwards only the modules imported meanwhile hold
it, so that `import ssl` elsewhere finds the real module, and they too get it as soon as they ask the stand-in for
anything.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

Deferred = Mapping[str, Mapping[str, object]]
"""Each module to the attributes that can be given without loading it."""

PAHO: Deferred = {"ssl": {}, "urllib.request": {}, "hashlib": {}}
UNUSED = ("socks",)
"""PySocks, which paho imports if it is installed: our own transport talks to proxies."""


class NotLoaded:
    """Stands for a class of a module that is not loaded: nothing is an instance of it."""


def _unchanged(function: Any) -> Any:
    """Stand for a decorator that only type checkers look at."""
    return function


BLEAK: Deferred = {
    "ssl": {"SSLSocket": NotLoaded},  # asyncio checks that the D-Bus socket is not one
    "asyncio.sslproto": {},
    "hashlib": {},
    "xml.etree.ElementTree": {"Element": NotLoaded},  # an annotation of dbus-fast
    "xml.parsers.expat": {},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},  # defaults of asyncio's parameters
    "typing_extensions": {"override": _unchanged},  # only Python 3.10 and 3.11 need it
}


class DeferredModule(types.ModuleType):
    """A module that is imported when code needs an attribute that the stand-in does not have."""

    def __init__(self, name: str, given: Mapping[str, object]) -> None:
        super().__init__(name)
        self._given = given

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) in (None, self):
            if name in self._given:
                return self._given[name]
            if name.startswith("__"):  # the import system looks for __path__ and more
                raise AttributeError(name)
            sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def deferred_imports(deferred: Deferred = PAHO) -> Iterator[None]:
    """Import only a stand-in for each deferred module that is not loaded yet, while the body runs."""
    stand_ins = {name: DeferredModule(name, given) for name, given in deferred.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    absent = {name: None for name in UNUSED if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None makes the import fail
    try:
        for name in stand_ins:
            if package := name.rpartition(".")[0]:  # `import package.module as m` needs it
                importlib.import_module(package)
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
