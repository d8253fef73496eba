"""Who may connect, from the rules that ufw and firewalld print: the first rule that fits decides. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mqttkit.broker.doctor.nftables import NewConnection, Passage

UFW_RULE = re.compile(r"(?P<to>\S.*?)\s{2,}(?P<action>ALLOW|LIMIT|DENY|REJECT)(?: IN)?\s+(?P<sender>\S.*)")
RICH_ELEMENTS = {"port", "service", "protocol", "source-port", "icmp-block", "icmp-type", "masquerade", "forward-port"}
"""What a rich rule is about; without any of them it is about every packet (firewalld.richlanguage(5))."""


@dataclass(frozen=True)
class Rule:
    """A rule that fits a connection."""

    allows: bool
    """Whether it accepts."""
    everyone: bool
    """Whether it fits every sender."""
    priority: int = 0
    """firewalld: lower ones come first."""


def ufw_passage(status: str, connection: NewConnection) -> Passage:
    """Return who may connect, from `ufw status verbose`."""
    allows = re.search(r"^Default: allow", status, re.M) is not None
    return _first_match(_ufw_rules(status, connection), allows=allows)


def firewalld_passage(zones: Iterable[str], services: Mapping[str, str], connection: NewConnection) -> Passage:
    """Return who may connect, from `firewall-cmd --list-all` of each zone that counts.

    `services` has the text of `firewall-cmd --info-service` for each of `zone_services`.
    """
    found = {_zone_passage(zone, services, connection) for zone in zones}
    return found.pop() if len(found) == 1 else Passage.SOME


def zone_services(zone: str) -> list[str]:
    """Return the names of the services in the output of `firewall-cmd --list-all`, rich rules included."""
    return [*_entries(zone).get("services", ()), *re.findall(r'\bservice name="([^"]+)"', zone)]


def _first_match(rules: Iterable[Rule], *, allows: bool) -> Passage:
    """Return who gets through the rules in their order; what fits none is accepted if `allows`.

    A rule that only rejects some senders changes nothing: everyone else still gets through.
    """
    some = False
    for rule in rules:
        if rule.everyone:
            allows = rule.allows
            break
        some = some or rule.allows
    return Passage.OPEN if allows else Passage.SOME if some else Passage.CLOSED


def _ufw_rules(status: str, connection: NewConnection) -> Iterator[Rule]:
    for line in status.splitlines():
        rule = UFW_RULE.fullmatch(line.strip())
        if rule is None or ("(v6)" in rule["to"]) != (connection.address.version == 6 and "(v6)" in status):
            continue
        place = rule["to"].replace("(v6)", "").strip()
        if _ufw_covers(place.rpartition(" ")[2], connection.port):
            everyone = rule["sender"].replace("(v6)", "").strip() == "Anywhere" and " " not in place
            yield Rule(rule["action"] in ("ALLOW", "LIMIT"), everyone)


def _ufw_covers(place: str, port: int) -> bool:
    """Return whether `8883/tcp`, `8883`, `80,443/tcp`, `1000:2000/tcp` or `Anywhere` covers the TCP port."""
    ports, _, protocol = place.partition("/")
    if place == "Anywhere":
        return True
    if protocol not in ("", "tcp") or not re.fullmatch(r"[\d:,]+", ports):
        return False
    return any(_in_range(part.replace(":", "-"), port) for part in ports.split(","))


def _zone_passage(zone: str, services: Mapping[str, str], connection: NewConnection) -> Passage:
    entries = _entries(zone)
    rules = [
        rule
        for line in zone.splitlines()
        if line.strip().startswith("rule ") and (rule := _rich_rule(line, services, connection)) is not None
    ]
    service_ports = [port for name in entries.get("services", ()) for port in _entries(services[name]).get("ports", ())]
    if _covers([*entries.get("ports", ()), *service_ports], connection.port) or "tcp" in entries.get("protocols", ()):
        rules.append(Rule(allows=True, everyone=True))
    rules.sort(key=lambda rule: (rule.priority, rule.allows))
    return _first_match(rules, allows=entries.get("target") == ["ACCEPT"])


def _rich_rule(line: str, services: Mapping[str, str], connection: NewConnection) -> Rule | None:
    """Return what the rule does with a connection; None if it does not fit or only logs or marks."""
    words = shlex.split(line)
    values = dict(word.split("=", 1) for word in words if "=" in word)
    action = next((word for word in words if word in ("accept", "reject", "drop")), None)
    if action is None or values.get("family", f"ipv{connection.address.version}") != f"ipv{connection.address.version}":
        return None
    element = next((word for word in words if word in RICH_ELEMENTS), None)
    fits = (
        element in (None, "source-port")
        or (element == "port" and _covers([f"{values['port']}/{values['protocol']}"], connection.port))
        or (element == "service" and _covers(_entries(services[values["name"]]).get("ports", ()), connection.port))
        or (element == "protocol" and values["value"] == "tcp")
    )
    everyone = not {"source", "destination", "source-port"} & set(words)
    return Rule(action == "accept", everyone, int(values.get("priority", 0))) if fits else None


def _entries(text: str) -> dict[str, list[str]]:
    """Return the words after each `key:`."""
    parts = (line.partition(":") for line in text.splitlines() if not line.strip().startswith("rule "))
    return {key.strip(): value.split() for key, _, value in parts}


def _covers(places: Iterable[str], port: int) -> bool:
    """Return whether one of `8883/tcp`, `9000-9010/tcp` covers the TCP port."""
    return any(place.endswith("/tcp") and _in_range(place.removesuffix("/tcp"), port) for place in places)


def _in_range(ports: str, port: int) -> bool:
    """Return whether `8883` or `9000-9010` contains the port."""
    ends = ports.split("-")
    return int(ends[0]) <= port <= int(ends[-1])
