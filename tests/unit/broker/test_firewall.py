"""Who may connect, from what ufw, firewalld and nft print."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from mqttkit.broker.doctor.firewall import firewalld_passage, ufw_passage
from mqttkit.broker.doctor.nftables import Connection, Passage, Ruleset

UFW = """\
Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), deny (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
8883/tcp                   ALLOW IN    192.168.2.0/24
1883                       ALLOW IN    Anywhere
9001/tcp                   DENY IN     Anywhere
1000:1010/tcp              LIMIT IN    Anywhere
192.168.2.3 9443/tcp       ALLOW IN    Anywhere
1883 (v6)                  ALLOW IN    Anywhere (v6)
9001/tcp (v6)              DENY IN     Anywhere (v6)
"""
"""The output of ufw 0.36."""
ZONE = """\
public (active)
  target: default
  interfaces: eth0
  services: ssh mqtt
  ports: 8883/tcp 9000-9010/tcp 5353/udp
  rich rules:
\trule family="ipv4" source address="10.0.0.0/8" port port="7000" protocol="tcp" accept
"""


def to(port: int, address: str = "192.168.2.3") -> Connection:
    return Connection(ipaddress.ip_address(address), port)


@pytest.mark.parametrize(
    ("connection", "passage"),
    [
        (to(1883), Passage.OPEN),
        (to(8883), Passage.SOME),
        (to(9001), Passage.CLOSED),
        (to(1005), Passage.OPEN),
        (to(9443), Passage.SOME),
        (to(4444), Passage.CLOSED),
        (to(1883, "fd00::1"), Passage.OPEN),
        (to(8883, "fd00::1"), Passage.CLOSED),
    ],
)
def test_the_first_rule_of_ufw_that_fits_decides(connection: Connection, passage: Passage):
    assert ufw_passage(UFW, connection) is passage


def test_without_a_rule_the_default_of_ufw_decides():
    assert ufw_passage(UFW.replace("deny (incoming)", "allow (incoming)"), to(4444)) is Passage.OPEN


@pytest.mark.parametrize(
    ("port", "passage"),
    [
        (1883, Passage.OPEN),
        (8883, Passage.OPEN),
        (9005, Passage.OPEN),
        (7000, Passage.SOME),
        (5353, Passage.CLOSED),
        (4444, Passage.CLOSED),
    ],
)
def test_services_ports_and_rich_rules_of_firewalld_decide(port: int, passage: Passage):
    assert firewalld_passage([ZONE], port) is passage


def test_a_port_that_one_of_two_zones_opens_is_open_to_some():
    assert firewalld_passage([ZONE, "internal\n  target: default\n"], 8883) is Passage.SOME
    assert firewalld_passage([ZONE, "trusted\n  target: ACCEPT\n"], 8883) is Passage.OPEN


def ruleset(*rules: list[Any], policy: str = "accept", more: tuple[list[Any], ...] = ()) -> Ruleset:
    """Return a ruleset with a chain `in` at the hook, and a chain `more` to jump to."""
    place = {"family": "inet", "table": "t"}
    chain = {"chain": {**place, "name": "in", "hook": "input", "prio": 0, "policy": policy}}
    made = [{"rule": {**place, "chain": "in", "expr": rule}} for rule in rules]
    made += [{"rule": {**place, "chain": "more", "expr": rule}} for rule in more]
    return Ruleset([{"metainfo": {}}, chain, *made])


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def header(field: str, right: Any, *, protocol: str = "tcp", op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": field}}, right, op)


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
SENDER = header("saddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}, protocol="ip")
STATE = {"ct": {"key": "state"}}


@pytest.mark.parametrize(
    ("rules", "policy", "passage"),
    [
        ([], "accept", Passage.OPEN),
        ([], "drop", Passage.CLOSED),
        ([[header("dport", 8883), ACCEPT]], "drop", Passage.OPEN),
        ([[header("dport", 8883), DROP]], "accept", Passage.CLOSED),
        ([[header("dport", 8883), {"reject": {}}]], "accept", Passage.CLOSED),
        ([[header("dport", 22), ACCEPT]], "drop", Passage.CLOSED),
        ([[header("dport", 22, op="!="), DROP]], "accept", Passage.CLOSED),
        ([[header("dport", {"set": [22, {"range": [8000, 9000]}]}), ACCEPT]], "drop", Passage.OPEN),
        ([[header("dport", "@open"), ACCEPT]], "drop", Passage.SOME),
        ([[header("dport", 8883, protocol="udp"), ACCEPT]], "drop", Passage.CLOSED),
        ([[SENDER, header("dport", 8883), {"counter": None}, ACCEPT]], "drop", Passage.SOME),
        ([[SENDER, DROP]], "accept", Passage.SOME),
        ([[header("saddr", "::1", protocol="ip6"), DROP]], "accept", Passage.OPEN),
        ([[header("daddr", "192.168.2.3", protocol="ip"), DROP]], "accept", Passage.CLOSED),
        ([[header("daddr", "192.168.2.4", protocol="ip"), DROP]], "accept", Passage.OPEN),
        ([[match({"meta": {"key": "iifname"}}, "lo"), ACCEPT]], "drop", Passage.CLOSED),
        ([[match({"meta": {"key": "iifname"}}, "eth0"), ACCEPT]], "drop", Passage.SOME),
        ([[match({"meta": {"key": "l4proto"}}, "tcp"), ACCEPT]], "drop", Passage.OPEN),
        ([[match({"meta": {"key": "nfproto"}}, "ipv6"), ACCEPT]], "drop", Passage.CLOSED),
        ([[match(STATE, ["established", "related"], "in"), ACCEPT]], "drop", Passage.CLOSED),
        ([[match(STATE, ["new", "established"], "in"), ACCEPT]], "drop", Passage.OPEN),
        ([[{"vmap": {"key": STATE, "data": {"set": [["invalid", DROP], ["new", ACCEPT]]}}}]], "drop", Passage.OPEN),
        ([[{"vmap": {"key": STATE, "data": {"set": [["established", ACCEPT]]}}}]], "drop", Passage.CLOSED),
        ([[{"vmap": {"key": STATE, "data": "@map"}}]], "accept", Passage.SOME),
        ([[{"limit": {"rate": 5}}, ACCEPT]], "drop", Passage.SOME),
        ([[{"xt": None}, ACCEPT]], "drop", Passage.SOME),
        ([[{"return": None}], [ACCEPT]], "drop", Passage.OPEN),
    ],
)
def test_rules_are_followed_as_the_kernel_follows_them(rules: list[list[Any]], policy: str, passage: Passage):
    assert ruleset(*rules, policy=policy).passage(to(8883))[0] is passage


def test_a_jump_is_followed_and_the_chain_that_drops_is_named():
    jump = [{"jump": {"target": "more"}}]
    found = ruleset(jump, policy="drop", more=([header("dport", 8883), ACCEPT],))
    assert found.passage(to(8883)) == (Passage.OPEN, None)
    assert found.passage(to(1883)) == (Passage.CLOSED, ("inet", "t", "in"))


def test_a_chain_that_jumps_to_itself_ends():
    assert ruleset([{"jump": {"target": "in"}}]).passage(to(1883))[0] is Passage.OPEN


def test_only_chains_of_the_address_s_family_count():
    chain = {"chain": {"family": "ip6", "table": "t", "name": "in", "hook": "input", "prio": 0, "policy": "drop"}}
    assert not Ruleset([chain]).filters(to(1883))
    assert Ruleset([chain]).filters(to(1883, "fd00::1"))
