"""Who may connect, from what ufw, firewalld and nft print."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from mqttkit.broker.doctor.nftables import NewConnection, Passage, Ruleset
from mqttkit.broker.doctor.rule_lists import firewalld_passage, ufw_passage, zone_services

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
PUBLIC = """\
public (active)
  target: default
  icmp-block-inversion: no
  interfaces: eth0
  sources:
  services: dhcpv6-client mqtt ssh
  ports: 8883/tcp 9000-9010/tcp 5353/udp
  protocols:
  forward: yes
  masquerade: no
  forward-ports:
  source-ports:
  icmp-blocks:
  rich rules:
\trule priority="-5" port port="9006" protocol="tcp" log prefix="a b" level="info" limit value="1/m" accept
\trule port port="9006" protocol="tcp" drop
\trule family="ipv4" source address="10.0.0.0/8" service name="mqtt-tls" accept
\trule family="ipv4" source address="10.0.0.0/8" port port="7000" protocol="tcp" accept
\trule port port="7500" protocol="udp" accept
\trule port port="7100-7200" protocol="tcp" accept
\trule family="ipv6" port port="7300" protocol="tcp" accept
\trule family="ipv4" source address="10.0.0.0/8" port port="9004" protocol="tcp" drop
\trule port port="9003" protocol="tcp" reject
\trule priority="5" port port="9007" protocol="tcp" drop
"""
"""The output of firewalld 1.3.3 with rules for each case, from Debian 12."""
INTERNAL = """\
internal (active)
  target: default
  icmp-block-inversion: no
  interfaces:
  sources: 10.0.0.0/8
  services: dhcpv6-client mdns samba-client ssh
  ports:
  protocols:
  forward: yes
  masquerade: no
  forward-ports:
  source-ports:
  icmp-blocks:
  rich rules:
"""
TRUSTED = INTERNAL.replace("target: default", "target: ACCEPT")
SERVICE = """\
{name}
  ports: {ports}
  protocols:
  source-ports:
  modules:
  destination:
  includes:
  helpers:
"""
SERVICES = {
    name: SERVICE.format(name=name, ports=ports)
    for name, ports in {
        "dhcpv6-client": "546/udp",
        "mdns": "5353/udp",
        "mqtt": "1883/tcp",
        "mqtt-tls": "8883/tcp",
        "samba-client": "138/udp",
        "ssh": "22/tcp",
    }.items()
}


def to(port: int, address: str = "192.168.2.3") -> NewConnection:
    return NewConnection(ipaddress.ip_address(address), port)


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
def test_the_first_rule_of_ufw_that_fits_decides(connection: NewConnection, passage: Passage):
    assert ufw_passage(UFW, connection) is passage


def test_without_a_rule_the_default_of_ufw_decides():
    assert ufw_passage(UFW.replace("deny (incoming)", "allow (incoming)"), to(4444)) is Passage.OPEN


@pytest.mark.parametrize(
    ("port", "passage"),
    [
        (1883, Passage.OPEN),
        (8883, Passage.OPEN),
        (9005, Passage.OPEN),
        (9003, Passage.CLOSED),
        (9004, Passage.OPEN),
        (9006, Passage.OPEN),
        (9007, Passage.OPEN),
        (7000, Passage.SOME),
        (7150, Passage.OPEN),
        (7300, Passage.CLOSED),
        (7500, Passage.CLOSED),
        (5353, Passage.CLOSED),
        (4444, Passage.CLOSED),
    ],
)
def test_services_ports_and_rich_rules_of_firewalld_decide(port: int, passage: Passage):
    """Rules with a lower priority come first; at the same priority those that reject."""
    assert firewalld_passage([PUBLIC], SERVICES, to(port)) is passage


def test_a_rule_for_ipv6_does_not_count_for_ipv4():
    assert firewalld_passage([PUBLIC], SERVICES, to(7300, "fd00::1")) is Passage.OPEN
    assert firewalld_passage([PUBLIC], SERVICES, to(7000, "fd00::1")) is Passage.CLOSED


def test_a_port_that_one_of_two_zones_opens_is_open_to_some():
    assert firewalld_passage([PUBLIC, INTERNAL], SERVICES, to(8883)) is Passage.SOME
    assert firewalld_passage([PUBLIC, TRUSTED], SERVICES, to(8883)) is Passage.OPEN


@pytest.mark.parametrize(
    "rule",
    [
        'rule family="ipv4" source NOT address="10.9.0.0/16" accept',
        'rule source-port port="7400" protocol="tcp" accept',
        'rule family="ipv4" source address="10.0.0.0/8" protocol value="tcp" accept',
    ],
)
def test_a_rule_without_a_port_opens_every_port_to_some(rule: str):
    assert firewalld_passage([f"{INTERNAL}\t{rule}\n"], SERVICES, to(8883)) is Passage.SOME


@pytest.mark.parametrize("rule", ['rule port port="8883" protocol="tcp" log', 'rule icmp-type name="redirect" accept'])
def test_a_rule_that_only_logs_or_is_about_something_else_opens_nothing(rule: str):
    assert firewalld_passage([f"{INTERNAL}\t{rule}\n"], SERVICES, to(8883)) is Passage.CLOSED


def test_the_services_to_ask_for_are_those_of_the_zone_and_its_rich_rules():
    assert zone_services(PUBLIC) == ["dhcpv6-client", "mqtt", "ssh", "mqtt-tls"]


def test_a_rule_of_ufw_for_everyone_counts_also_after_one_for_a_network():
    status = UFW.replace("9001/tcp                   DENY IN ", "8883/tcp                   ALLOW IN")
    assert ufw_passage(status, to(8883)) is Passage.OPEN


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
