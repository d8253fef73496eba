"""Which firewall of this machine is between the network and a listener: ufw, firewalld or nftables. Read only."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from mqttkit.broker.doctor.examined_broker import ExaminedBroker
from mqttkit.broker.doctor.findings import Result, failed, passed, warned
from mqttkit.broker.doctor.nftables import ChainKey, NewConnection, Passage, Ruleset
from mqttkit.broker.doctor.rule_lists import firewalld_passage, ufw_passage, zone_services
from mqttkit.broker.exposure import ExposedListener, exposed_listeners, is_public, network_of
from mqttkit.errors import LifecycleError, reason_of

SYSTEM_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
SECONDS = 10


@dataclass(frozen=True)
class FirewallDecision:
    """What a firewall does with connections to a listener."""

    firewall: str
    """Name of the firewall; empty if there is none."""
    passage: Passage
    """Who may connect."""
    chain: ChainKey | None = field(default=None)
    """nftables: the chain that drops connections."""


def firewall(examined: ExaminedBroker) -> Iterator[Result]:
    """Ask ufw, firewalld or nftables who may connect to each listener beyond loopback."""
    exposed = exposed_listeners(examined.broker.spec)
    if not exposed:
        yield passed("no listener is bound to more than loopback")
    for listener in exposed:
        where = f"{listener.name} on port {listener.port}"
        decision = decide(listener)
        if examined.broker.backend == "docker":
            yield _published(listener, where, decision)
        else:
            yield _judged(listener, where, decision)


def decide(listener: ExposedListener) -> FirewallDecision:
    """Return what the first active firewall does; raise LifecycleError if this user cannot see it."""
    connection = NewConnection(listener.listen, listener.port)
    status = _run("ufw", "status", "verbose")
    if status is not None and "Status: active" in status:
        return FirewallDecision("ufw", ufw_passage(status, connection))
    if (_run("firewall-cmd", "--state") or "").strip() == "running":
        return FirewallDecision("firewalld", _firewalld_passage(connection))
    text = _run("nft", "--json", "list", "ruleset")
    if text is None:
        raise LifecycleError("nft is not installed, so mqttkit cannot read the rules: apt-get install nftables")
    rules = Ruleset(json.loads(text)["nftables"])
    if not rules.filters(connection):
        return FirewallDecision("", Passage.OPEN)
    return FirewallDecision("nftables", *rules.passage(connection))


def _firewalld_passage(connection: NewConnection) -> Passage:
    """Ask firewalld for its active zones, and the default one, which has the interfaces that are in no zone."""
    names = re.findall(r"^(\S+)", _run("firewall-cmd", "--get-active-zones") or "", re.M)
    names += (_run("firewall-cmd", "--get-default-zone") or "").split()
    zones = [_run("firewall-cmd", f"--zone={name}", "--list-all") or "" for name in dict.fromkeys(names)]
    services = {service for zone in zones for service in zone_services(zone)}
    ports = {service: _run("firewall-cmd", f"--info-service={service}") or "" for service in sorted(services)}
    return firewalld_passage(zones, ports, connection)


def _judged(listener: ExposedListener, where: str, decision: FirewallDecision) -> Result:
    allow = _allow_command(listener, decision)
    if decision.passage is Passage.CLOSED:
        return failed(f"{decision.firewall} blocks {where}: other machines cannot connect", allow)
    if decision.passage is Passage.SOME:
        return passed(f"{decision.firewall} lets some machines connect to {where}")
    who = f"{decision.firewall} lets every machine" if decision.firewall else "without a firewall, every machine may"
    if is_public(listener.addresses()):
        return warned(f"{who} connect to {where}, on a public address", f"allow only the networks you need: {allow}")
    return passed(f"{who} connect to {where}")


def _published(listener: ExposedListener, where: str, decision: FirewallDecision) -> Result:
    """Judge a port that Docker publishes: its packets are forwarded to the container, past the rules for input."""
    network = _network(listener)
    fix = (
        f"iptables -I DOCKER-USER -p tcp -m conntrack --ctorigdstport {listener.port} ! -s {network} -j DROP"
        " lets in only that network"
    )
    if is_public(listener.addresses()):
        return warned(f"Docker publishes {where} to every machine, on a public address", fix)
    if decision.passage is not Passage.OPEN:
        return warned(f"Docker publishes {where} past {decision.firewall}: its rules have no effect on it", fix)
    return passed(f"Docker publishes {where} to every machine that reaches the address")


def _allow_command(listener: ExposedListener, decision: FirewallDecision) -> str:
    """Return the command that lets the listener's network connect."""
    network, port, version = _network(listener), listener.port, listener.listen.version
    if decision.firewall == "ufw":
        return f"ufw allow from {network} to any port {port} proto tcp"
    if decision.firewall == "firewalld":
        rule = f"rule family=ipv{version} source address={network} port port={port} protocol=tcp accept"
        return f"firewall-cmd --permanent --add-rich-rule='{rule}' && firewall-cmd --reload"
    chain = " ".join(decision.chain or ("inet", "filter", "input"))
    return f"nft insert rule {chain} {'ip' if version == 4 else 'ip6'} saddr {network} tcp dport {port} accept"


def _network(listener: ExposedListener) -> str:
    """Return the network of the listener's first address, or an example."""
    found = [network for address in listener.addresses() if (network := network_of(address)) is not None]
    return str(found[0]) if found else "NETWORK/PREFIX"


def _run(program: str, *arguments: str) -> str | None:
    """Return the output of a program, or None if it is not installed; raise LifecycleError if it fails.

    A firewalld that is not running is not a failure.
    """
    path = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), SYSTEM_PATHS)))
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LifecycleError(f"{program} does not answer: {reason_of(error)}") from error
    if done.returncode and "not running" not in done.stdout + done.stderr:
        reason = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise LifecycleError(f"{program} shows no rules to this user: {reason}")
    return done.stdout
