"""What an nftables ruleset does with a new TCP connection from the network (libnftables-json(5)). Pure."""

from __future__ import annotations

import enum
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mqttkit.broker.exposure import IpAddress

Match = bool | None
"""True, False, or None if it depends on the sender."""
ChainKey = tuple[str, str, str]
"""Family, table and name of a chain."""
FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
FINAL = {"accept": "accept", "drop": "drop", "reject": "drop"}
TCP = ("tcp", 6)
DEPTH = 16
"""The kernel allows as many jumps (nft(8), jump)."""


class Passage(enum.Enum):
    """Who may connect."""

    OPEN = "every machine"
    SOME = "some machines"
    CLOSED = "no machine"


@dataclass(frozen=True)
class NewConnection:
    """A new TCP connection from another machine."""

    address: IpAddress
    """Address of the listener; 0.0.0.0 or :: for every address."""
    port: int
    """Port of the listener."""


class Ruleset:
    """The chains that see what arrives for this machine."""

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take the list `nftables` of `nft --json list ruleset`."""
        self._rules: dict[ChainKey, list[list[Any]]] = defaultdict(list)
        self._inputs: list[tuple[int, ChainKey, str]] = []
        for entry in entries:
            if "rule" in entry:
                rule = entry["rule"]
                self._rules[rule["family"], rule["table"], rule["chain"]].append(rule["expr"])
            elif entry.get("chain", {}).get("hook") == "input":
                chain = entry["chain"]
                key = (chain["family"], chain["table"], chain["name"])
                self._inputs.append((int(chain["prio"]), key, chain.get("policy", "accept")))

    def filters(self, connection: NewConnection) -> bool:
        """Return whether any chain sees the connection."""
        return bool(self._chains(connection))

    def passage(self, connection: NewConnection) -> tuple[Passage, ChainKey | None]:
        """Return who may connect, and the first chain that drops anything: a packet has to pass all of them."""
        least, chain = Passage.OPEN, None
        for _, key, policy in self._chains(connection):
            ends = {policy if end == "continue" else end for end in self._ends(key, connection, DEPTH)}
            if ends == {"drop"}:
                return Passage.CLOSED, key
            if "drop" in ends and chain is None:
                least, chain = Passage.SOME, key
        return least, chain

    def _chains(self, connection: NewConnection) -> list[tuple[int, ChainKey, str]]:
        return sorted(chain for chain in self._inputs if chain[1][0] in FAMILIES[connection.address.version])

    def _ends(self, key: ChainKey, connection: NewConnection, depth: int) -> set[str]:
        """Return how a connection may leave a chain: accept, drop, continue."""
        ends: set[str] = set()
        for statements in self._rules[key] if depth else ():
            certain: Match = True
            for statement in statements:
                matched = _matches(statement, connection)
                if matched is False:
                    break
                certain = certain if matched else None
                found = self._verdict(statement, key, connection, depth)
                ends |= found - {"continue"}
                if found and "continue" not in found and certain:
                    return ends
        return ends | {"continue"}

    def _verdict(self, statement: Mapping[str, Any], key: ChainKey, connection: NewConnection, depth: int) -> set[str]:
        """Return how the statement may end the chain; nothing if it is not a verdict."""
        kind, value = next(iter(statement.items()))
        if kind in FINAL:
            return {FINAL[kind]}
        if kind == "return":
            return {"continue"}
        if kind in ("jump", "goto"):
            return self._ends((*key[:2], value["target"]), connection, depth - 1)
        if kind != "vmap":
            return set()
        pairs = value["data"].get("set") if isinstance(value["data"], dict) else None
        if pairs is None:
            return {"accept", "drop", "continue"}
        found = {"continue"}
        for expected, verdict in pairs:
            matched = _compare(value["key"], expected, connection)
            if matched is not False:
                ends = self._verdict(verdict, key, connection, depth)
                if matched:
                    return ends
                found |= ends
        return found


def _matches(statement: Mapping[str, Any], connection: NewConnection) -> Match:
    """Return whether the connection gets past a statement of a rule."""
    kind, value = next(iter(statement.items()))
    if kind in ("xt", "limit", "quota", "ct count"):
        return None
    if kind != "match":
        return True
    matched = _compare(value["left"], value["right"], connection)
    return matched if matched is None or value["op"] != "!=" else not matched


def _compare(left: Any, right: Any, connection: NewConnection) -> Match:
    if not isinstance(left, dict):
        return None
    kind, value = next(iter(left.items()))
    if kind == "payload":
        return _compare_header(value.get("protocol"), value.get("field"), right, connection)
    if kind == "meta":
        return _compare_meta(value.get("key"), right, connection)
    if kind == "ct" and value.get("key") == "state":
        return "new" in _values(right)
    return None


def _compare_header(protocol: Any, field: Any, right: Any, connection: NewConnection) -> Match:
    version = connection.address.version
    if protocol in ("tcp", "th"):
        return _contains(right, connection.port) if field == "dport" else None
    if protocol not in ("ip", "ip6"):
        return False  # another protocol than TCP
    if version != (4 if protocol == "ip" else 6):
        return False
    if field in ("protocol", "nexthdr"):
        return any(one in TCP for one in _values(right))
    if field == "daddr" and not connection.address.is_unspecified:
        return _contains(right, connection.address)
    return None


def _compare_meta(key: Any, right: Any, connection: NewConnection) -> Match:
    values = _values(right)
    if key == "l4proto":
        return any(one in TCP for one in values)
    if key == "nfproto":
        return f"ipv{connection.address.version}" in values
    if key in ("iifname", "iif"):
        return False if values == ["lo"] else None
    return None


def _values(right: Any) -> list[Any]:
    """Return the elements of a set or list, or the only value."""
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    return right if isinstance(right, list) else [right]


def _contains(right: Any, wanted: int | IpAddress) -> Match:
    """Return whether a value, range, prefix or set contains a port or an address; None for a named set."""
    found: list[Match] = [_covers(one, wanted) for one in _values(right)]
    return True if True in found else None if None in found else False


def _covers(one: Any, wanted: int | IpAddress) -> Match:
    if isinstance(one, dict) and "elem" in one:
        one = one["elem"]["val"]
    if isinstance(one, str) and one.startswith("@"):
        return None
    try:
        if isinstance(one, dict) and "prefix" in one:
            return wanted in ipaddress.ip_network(f"{one['prefix']['addr']}/{one['prefix']['len']}")
        first, last = one["range"] if isinstance(one, dict) else (one, one)
        if isinstance(wanted, int):
            return int(first) <= wanted <= int(last)
        return int(ipaddress.ip_address(first)) <= int(wanted) <= int(ipaddress.ip_address(last))
    except (ValueError, KeyError, TypeError):
        return None
