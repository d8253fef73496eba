"""The ACL simulator and parser against the real mosquitto."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqttkit.broker.accounts.acl import Access, AclFile
from mqttkit.broker.accounts.acl_simulator import check_access, check_subscription
from mqttkit.broker.accounts.passwords import password_line
from mqttkit.errors import UsageError
from mqttkit.topics import matches
from tests.support.brokers import Mosquitto, mosquitto, need
from tests.support.probe import Probe

PASSWORD = "correct horse battery"
CLIENTS = ((None, "c1"), ("anna", "c2"), ("bert", "anna"), ("cara", "x/y"), ("da+n", "c5"), ("emil", "c#"))
TOPICS = ("a", "a/", "/a", "a/b", "a/b/anna", "b", "b/c2", "b/anna/a", "anna", "x/y", "$d/a", "%u", "a/%c")
FILTERS = ("#", "a/#", "a/+", "+/b", "b/anna/#", "$d/#", "+", "anna", "$share/g/a/#", "+/+/+")
ADMIN = "user admin\ntopic readwrite #\ntopic readwrite $d/#\n"
DENIED = 135

levels = st.sampled_from(["a", "b", "+", "%u", "%c", "anna", "c2", ""])
filters = st.builds(
    lambda head, middle, tail: "/".join([*head, *middle, *tail]),
    st.sampled_from([[], [], [], ["$d"]]),
    st.lists(levels, min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
).filter(bool)
rules = st.builds(
    "{} {} {}".format,
    st.sampled_from(["topic", "pattern"]),
    st.sampled_from(["read", "write", "readwrite", "deny"]),
    st.one_of(filters, st.just("#")),
)
users = st.sampled_from(["user anna", "user bert", "user cara", "user da+n", "user emil"])
acl_texts = st.builds(
    lambda first, rest: "\n".join([*first, *(line for user, block in rest for line in (user, *block))]) + "\n",
    st.lists(rules, max_size=2),
    st.lists(st.tuples(users, st.lists(rules, min_size=1, max_size=4)), min_size=1, max_size=4),
)


@contextlib.contextmanager
def broker_with(acl: str) -> Iterator[Mosquitto]:
    """Run a mosquitto with this ACL, anonymous clients and every user of CLIENTS."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        names = ["admin", *(user for user, _ in CLIENTS if user)]
        place.joinpath("acl").write_text(acl)
        # check_user_name refuses da+n, and mosquitto must still be asked about it
        lines = [password_line(user.replace("+", "_"), PASSWORD, iterations=1) for user in names]
        place.joinpath("passwd").write_text("".join(line.replace("da_n", "da+n") + "\n" for line in lines))
        conf = (f"acl_file {place}/acl", f"password_file {place}/passwd")
        with mosquitto(place / "broker", *conf) as broker:
            yield broker


def connect(broker: Mosquitto, user: str | None, client_id: str) -> Probe:
    """Log a client in."""
    probe = Probe(broker.port, user, PASSWORD if user else None, client_id=client_id)
    assert probe.code == 0
    return probe


def delivered(broker: Mosquitto, admin: Probe, user: str | None, client_id: str, wanted: str) -> set[str]:
    """Return which of TOPICS reach a subscription."""
    with connect(broker, user, client_id) as probe:
        assert probe.subscribe(wanted, 0) == 0
        for topic in TOPICS:
            assert admin.publish(topic) != DENIED
        probe.subscribe("barrier", 0)
        return {message.topic for message in probe.messages}


@given(acl_texts)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_simulator_says_what_mosquitto_does(text: str) -> None:
    """For every client and topic, of any ACL: the same answer to read, write and subscribe."""
    text = ADMIN + text if text.startswith("user") else text + ADMIN
    acl = AclFile.parse(text)
    with broker_with(text) as broker, connect(broker, "admin", "admin") as admin:
        for user, client_id in CLIENTS:
            who = {"user": user, "client_id": client_id}
            with connect(broker, user, client_id) as probe:
                for topic in (*TOPICS, "$SYS/a", "$SYS/broker/connection/a/state"):
                    expected = check_access(acl, Access.WRITE, topic, **who)
                    assert (probe.publish(topic) != DENIED) is expected.allowed, (who, topic, expected)
            reached = delivered(broker, admin, user, client_id, "#")
            reached |= delivered(broker, admin, user, client_id, "$d/#")
            for topic in TOPICS:
                expected = check_access(acl, Access.READ, topic, **who)
                assert (topic in reached) is expected.allowed, (who, topic, expected)
            for wanted in FILTERS:
                verdict = check_subscription(acl, wanted, **who)
                matching = {topic for topic in TOPICS if matches(wanted, topic)}
                assert verdict.allowed or not matching & reached, (who, wanted, verdict)
                assert not (verdict.allowed and verdict.complete) or matching <= reached, (
                    who,
                    wanted,
                    verdict,
                )


def test_a_shared_subscription_follows_the_filter_inside_it() -> None:
    """Grants and silence of $share/group/filter are those of the filter."""
    text = ADMIN + "user anna\ntopic read a/#\n"
    acl = AclFile.parse(text)
    with broker_with(text) as broker, connect(broker, "admin", "admin") as admin:
        assert delivered(broker, admin, "anna", "c2", "$share/g/a/#") == {
            "a",
            "a/",
            "a/b",
            "a/b/anna",
            "a/%c",
        }
        assert delivered(broker, admin, "anna", "c2", "$share/g/b") == set()
    assert check_subscription(acl, "$share/g/a/#", user="anna").complete
    assert not check_subscription(acl, "$share/g/b", user="anna").allowed


LINES = (
    *(
        "",
        "# comment",
        "   ",
        " # indented",
        "topc read a",
        "TOPIC read a",
        "topic read a\r",
        " topic read a",
    ),
    *("user anna", "user  anna x ", "user", "user\tanna", "topic", "pattern", "topic a", "topic read"),
    *("topic read a b", "topic  read   a", "topic\tread a", "topic read\ta", "topic read \ta\t"),
    *("topic reed a", "topic read a/#/b", "topic read a#", "topic write +a", "topic deny a/+"),
    *("pattern read %u/#", "pattern write a", "topic readwrite $SYS/#", "topic write $share/g/a"),
    *("topic read " + "/" * 200, "topic read " + "/" * 201),
    *("topic deny " + "x" * 65_535, "topic deny " + "x" * 65_536),
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:24]))
def test_the_parser_refuses_exactly_what_mosquitto_refuses(line: str, tmp_path: Path) -> None:
    """A file that parses starts mosquitto, and one that does not stops it with an error about the ACL."""
    text = f"user bert\ntopic read a\n{line}\n"
    try:
        AclFile.parse(text)
        accepted = True
    except UsageError:
        accepted = False
    (tmp_path / "acl").write_text(text)
    assert starts(tmp_path, f"acl_file {tmp_path}/acl") is accepted


def starts(place: Path, *lines: str) -> bool:
    """Return whether mosquitto starts with these lines rather than ends with an error."""
    conf = place / "mosquitto.conf"
    conf.write_text("\n".join(("listener 0 " + str(place / "socket"), "allow_anonymous true", *lines)) + "\n")
    user = ["user root"]
    conf.write_text(conf.read_text() + "\n".join(user) + "\n")
    process = subprocess.Popen([need("mosquitto"), "-c", str(conf)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    with process.stderr:
        for entry in process.stderr:
            if b" running" in entry:
                process.kill()  # a SIGTERM this early is lost
                process.wait(60)
                return True
    assert process.wait(60) != 0
    return False
