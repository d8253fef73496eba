"""Signed messages and the key ring."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqttkit.controller.messages.refusals import MessageRefusal, MessageRefused
from mqttkit.controller.security.keys import Key, KeyFile, KeyRing, KeyStatus, generate, key_from_json, key_to_json
from mqttkit.controller.security.signing import sign, verify
from mqttkit.errors import UsageError
from tests.support.controllers import make_keys

TOPIC = "pdsno/discovery/zone-A/lc-1"
KEYS = {name: generate(name, name) for name in ("HS256", "Ed25519")}
RING = KeyRing().add(KEYS["HS256"]).add(KEYS["Ed25519"])
SIGNED = {name: sign(b'{"devices":[1,2,3]}', TOPIC, key) for name, key in KEYS.items()}
both = pytest.mark.parametrize("name", ["HS256", "Ed25519"])
UNBELIEVED = (MessageRefusal.MALFORMED, MessageRefusal.UNKNOWN_KEY, MessageRefusal.BAD_SIGNATURE)
"""Reasons of bytes that no known key signed."""


def reason(signed: bytes, topic: str = TOPIC, ring: KeyRing | KeyFile = RING, **limits: int) -> MessageRefusal:
    """Return why a message is refused."""
    with pytest.raises(MessageRefused) as caught:
        verify(signed, topic, ring, **limits)
    return caught.value.reason


def with_header(name: str, **changes: object) -> bytes:
    """A message with another header and the old signature."""
    head, *rest = SIGNED[name].split(b".")
    fields = json.loads(base64.urlsafe_b64decode(head + b"=="))
    text = json.dumps({key: value for key, value in {**fields, **changes}.items() if value is not None})
    return b".".join((base64.urlsafe_b64encode(text.encode()).rstrip(b"="), *rest))


@both
@given(data=st.binary(max_size=200), topic=st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()))
def test_what_is_signed_comes_back_byte_for_byte(name: str, data: bytes, topic: str) -> None:
    """Whatever the bytes are; the nonce is new each time."""
    first, second = (verify(sign(data, topic, KEYS[name]), topic, RING) for _ in range(2))
    assert (first.data, first.key.kid, len(first.nonce)) == (data, name, 16)
    assert first.nonce != second.nonce


@both
@settings(max_examples=400)
@given(data=st.data())
def test_no_mutation_of_one_byte_is_accepted(name: str, data: st.DataObject) -> None:
    """Changed, put in or taken out, anywhere."""
    signed = SIGNED[name]
    place = data.draw(st.integers(0, len(signed) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = data.draw(st.sampled_from([
        signed[:place] + bytes([byte]) + signed[place + 1 :],
        signed[:place] + bytes([byte]) + signed[place:],
        signed[:place] + signed[place + 1 :],
    ]))  # fmt: skip
    if changed != signed:
        assert reason(changed) in UNBELIEVED


@both
def test_no_last_character_has_a_twin(name: str) -> None:
    """The last character of base64 has bits that mean nothing: only one form of it is taken."""
    for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=!\n":
        changed = SIGNED[name][:-1] + bytes([byte])
        if changed != SIGNED[name]:
            assert reason(changed) in UNBELIEVED


@both
def test_each_truncation_is_refused(name: str) -> None:
    """At every length."""
    for length in range(len(SIGNED[name])):
        assert reason(SIGNED[name][:length]) in UNBELIEVED


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=60), min_size=3, max_size=3).map(b".".join))
def test_arbitrary_bytes_are_refused_with_a_reason(signed: bytes) -> None:
    """Nothing else comes out of the verifier."""
    assert reason(signed) in UNBELIEVED


def test_each_refusal_has_its_own_reason() -> None:
    """The order matters: size before form, form before key, key before signature, signature before topic."""
    stranger = generate("HS256")
    assert reason(SIGNED["HS256"], max_bytes=50) is MessageRefusal.TOO_LARGE
    assert reason(b"{}") is MessageRefusal.MALFORMED
    assert reason(SIGNED["HS256"], ring=KeyRing()) is MessageRefusal.UNKNOWN_KEY
    assert reason(SIGNED["HS256"], ring=KeyRing().add(stranger)) is MessageRefusal.BAD_SIGNATURE
    assert reason(SIGNED["HS256"], ring=RING.retire("HS256")) is MessageRefusal.RETIRED_KEY
    assert reason(SIGNED["HS256"], topic="pdsno/discovery/zone-B/lc-1") is MessageRefusal.WRONG_TOPIC


@pytest.mark.parametrize("changes", [
    {"alg": "none"}, {"alg": "HS512"}, {"alg": "Ed25519"}, {"kid": "Ed25519"}, {"topic": "other"},
    {"nonce": "AAAAAAAAAAAAAAAAAAAAAA"},
])  # fmt: skip
def test_a_changed_header_breaks_the_signature(changes: dict[str, object]) -> None:
    """The algorithm is the key's, not the message's; topic and nonce are signed."""
    assert reason(with_header("HS256", **changes)) is MessageRefusal.BAD_SIGNATURE


@pytest.mark.parametrize("changes", [
    {"alg": None}, {"iat": None}, {"iat": "1"}, {"iat": True}, {"iat": 1e300},
    {"kid": 1}, {"typ": "JWT"}, {"nonce": "AAAA"}, {"nonce": "*"}, {"nonce": "\ud800"}, {"nonce": "é"},
    {"crit": ["x"]}, {"b64": False},
    {"topic": "x" * 3000},
])  # fmt: skip
def test_a_header_of_another_shape_is_malformed(changes: dict[str, object]) -> None:
    """Extensions that change what is signed included (RFC 7797)."""
    assert reason(with_header("HS256", **changes)) is MessageRefusal.MALFORMED


def test_a_public_key_verifies_and_cannot_sign() -> None:
    """With Ed25519 whoever verifies cannot forge; with HS256 he can."""
    public = KEYS["Ed25519"].public()
    ring = KeyRing().add(public)
    assert verify(SIGNED["Ed25519"], TOPIC, ring).key.kid == "Ed25519"
    assert not public.can_sign
    with pytest.raises(UsageError, match="public key"):
        ring.activate("Ed25519")
    assert KEYS["HS256"].public().jwk == KEYS["HS256"].jwk


def test_a_public_key_is_no_secret_for_hs256() -> None:
    """The classic confusion: a message signed with the public key's bytes as a shared secret."""
    public = KEYS["Ed25519"].jwk["x"]
    forged_key = Key(kid="Ed25519", algorithm="HS256", jwk={"kty": "oct", "k": public})
    assert reason(sign(b"x", TOPIC, forged_key)) is MessageRefusal.BAD_SIGNATURE


def test_the_ring_rotates_with_an_overlap() -> None:
    """Add, activate, retire: the old key is believed until it is retired; one key signs at a time."""
    ring = KeyRing().add(generate("old")).activate("old")
    by_old = sign(b"x", TOPIC, ring.signer())
    ring = ring.add(generate("new"))
    by_new = sign(b"x", TOPIC, ring.keys["new"])
    assert verify(by_new, TOPIC, ring).key.kid == "new"
    ring = ring.activate("new")
    assert (ring.signer().kid, ring.keys["old"].status) == ("new", KeyStatus.ACCEPTED)
    verify(by_old, TOPIC, ring)
    ring = ring.retire("old")
    assert reason(by_old, ring=ring) is MessageRefusal.RETIRED_KEY
    with pytest.raises(UsageError, match="cannot be activated again"):
        ring.activate("old")
    with pytest.raises(UsageError, match="is active"):
        ring.retire("new")


@pytest.mark.parametrize(("change", "message"), [
    (lambda ring: ring.add(generate("a")), "already has a key 'a'"),
    (lambda ring: ring.add(generate("a/b")), "use 1 to 64"),
    (lambda ring: ring.activate("x"), "no key 'x'. It has: a"),
    (lambda ring: ring.retire("x"), "no key 'x'"),
    (lambda ring: ring.signer(), "no active key"),
    (lambda ring: ring.add(replace(generate("b", "HS256"), algorithm="Ed25519")), "with a key of type 'oct'"),
    (lambda ring: ring.add(replace(generate("b", "HS256"), jwk={"kty": "oct", "k": "c2hvcnQ"})), "shorter than 256"),
    (lambda ring: ring.add(Key(kid="b", algorithm="Ed25519", jwk={"kty": "OKP", "crv": "X"})), "invalid key material"),
    (lambda _: generate("b", "RS256"), "algorithm must be HS256 or Ed25519"),
])  # fmt: skip
def test_what_the_ring_cannot_do_is_one_clear_error(change: object, message: str) -> None:
    """Data of a user, not programming errors."""
    with pytest.raises(UsageError, match=message):
        change(KeyRing().add(generate("a")))  # type: ignore[operator]


def test_the_key_file_is_private_and_followed(tmp_path: Path) -> None:
    """A running controller sees a key that another process added at once when it needs it."""
    path = tmp_path / "keys" / "ring.json"
    mine, theirs = KeyFile(path), KeyFile(path)
    assert list(mine.ring) == []
    theirs.save(KeyRing().add(generate("a", owner="lc-1")).activate("a"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    verify(sign(b"x", TOPIC, theirs.ring.signer("lc-1")), TOPIC, mine)
    found = mine.ring.keys["a"]
    assert (found.owner, found.status, found == theirs.ring.keys["a"]) == ("lc-1", KeyStatus.ACTIVE, True)
    assert os.listdir(path.parent) == ["ring.json"]


def test_a_key_file_that_breaks_leaves_the_keys_as_they_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A slip of an editor does not make a running controller refuse everybody; it is said once."""
    path = tmp_path / "ring.json"
    mine = KeyFile(path)
    mine.save(KeyRing().add(generate("a")).activate("a"))
    path.write_text("{")
    for _ in range(3):
        assert mine.refresh().signer().kid == "a"
    assert caplog.text.count("still using the previous keys") == 1


def test_a_ring_changes_whole_or_not_at_all(tmp_path: Path) -> None:
    """What `update` refuses changes nothing; two processes do not undo each other."""
    path = tmp_path / "ring.json"
    first, second = KeyFile(path), KeyFile(path)
    first.update(lambda ring: ring.add(generate("a")))
    second.update(lambda ring: ring.add(generate("b")))
    with pytest.raises(UsageError):
        first.update(lambda ring: ring.add(generate("b")))
    assert sorted(first.ring.keys) == ["a", "b"]


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    """Logs and errors show keys by their identifier."""
    key = generate("a", "HS256")
    assert key.jwk["k"] not in repr(key) + repr(KeyRing().add(key))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"kid": "a", "alg": "none", "jwk": {}}]}']
)
def test_a_broken_key_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    """The file is named."""
    path = tmp_path / "ring.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        _ = KeyFile(path).ring


@both
def test_a_key_travels_to_another_ring(name: str) -> None:
    """`key generate --out`, then `key add`: not active there."""
    key = replace(KEYS[name], status=KeyStatus.ACTIVE)
    assert key_from_json(key_to_json(key.public()), "f") == replace(key.public(), status=KeyStatus.ACCEPTED)
    with pytest.raises(UsageError, match="f does not contain a key"):
        key_from_json("[]", "f")


def test_keys_that_cannot_be_read_any_more_stay_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that is gone or forbidden is said, and stops nobody; at the start it is an error."""
    home = tmp_path / "home"
    home.mkdir()
    keys = KeyFile(make_keys(home))
    assert keys.refresh().signer().kid == "k1"
    home.rename(tmp_path / "away")
    home.write_text("a file where the directory was")
    assert keys.refresh().signer().kid == "k1"
    assert "still using the previous keys" in caplog.text
    with pytest.raises(UsageError, match="cannot be read"):
        _ = KeyFile(home / "keys.json").ring


# --- limits, exactly ----------------------------------------------------------------------------------------


@both
def test_the_longest_message_accepted_is_the_limit(name: str) -> None:
    """To the byte; 256 KiB without another limit."""
    signed = SIGNED[name]
    assert verify(signed, TOPIC, RING, max_bytes=len(signed)).key.kid == name
    with pytest.raises(MessageRefused, match=f"{len(signed)} bytes, the limit is {len(signed) - 1}"):
        verify(signed, TOPIC, RING, max_bytes=len(signed) - 1)
    assert reason(b"x" * (256 * 1024 + 1)) is MessageRefusal.TOO_LARGE
    assert reason(b"x" * (256 * 1024)) is MessageRefusal.MALFORMED


@pytest.mark.parametrize(("moment", "good"), [
    (0.0, True), (253_402_300_799.999, True), (253_402_300_800, False), (-0.001, False), (1e300, False),
])  # fmt: skip
def test_the_time_of_signing_is_between_1970_and_9999(moment: float, good: bool) -> None:
    """A signature by a good key does not make another time possible."""
    signed = sign(b"x", TOPIC, KEYS["HS256"], now=moment)
    if good:
        assert verify(signed, TOPIC, RING).signed_at == moment
    else:
        assert reason(signed) is MessageRefusal.MALFORMED


def test_the_time_of_signing_has_milliseconds() -> None:
    """And is the present by default."""
    assert verify(sign(b"x", TOPIC, KEYS["HS256"], now=12.34567), TOPIC, RING).signed_at == 12.346
    before = time.time()
    found = verify(sign(b"x", TOPIC, KEYS["HS256"]), TOPIC, RING).signed_at
    assert before - 0.001 <= found <= time.time() + 0.001


@pytest.mark.parametrize(("changes", "text"), [
    ({"kid": None}, "the header lacks alg, kid, typ, topic or nonce"),
    ({"typ": None}, "the header lacks alg, kid, typ, topic or nonce"),
    ({"topic": None}, "the header lacks alg, kid, typ, topic or nonce"),
    ({"iat": None}, "the header lacks iat"),
    ({"typ": "JWT"}, "another kind of message"),
    ({"more": 1}, "another kind of message"),
    ({"nonce": "é"}, "the nonce is not base64url"),
    ({"nonce": "A"}, "not base64url"),
    ({"nonce": "AAAAAAAAAAAAAAAAAAAAAB"}, "not canonical base64url"),
    ({"nonce": "AAAA"}, "the nonce is not 16 bytes"),
])  # fmt: skip
def test_a_bad_header_is_named(changes: dict[str, object], text: str) -> None:
    """Before the signature is verified."""
    with pytest.raises(MessageRefused, match=text):
        verify(with_header("HS256", **changes), TOPIC, RING)


def test_the_algorithm_must_be_the_keys() -> None:
    """The error names both, and a topic that differs is named as well."""
    with pytest.raises(MessageRefused, match="key 'HS256' is for HS256, the message says 'none'"):
        verify(with_header("HS256", alg="none"), TOPIC, RING)
    with pytest.raises(MessageRefused, match="signed for topic 'pdsno/discovery/zone-A/lc-1', received on 'other'"):
        verify(SIGNED["HS256"], "other", RING)


@pytest.mark.parametrize(("extra", "good"), [(0, True), (1, False)])
def test_the_header_has_a_limit(extra: int, good: bool) -> None:
    """2,048 characters of base64."""

    def header_of(topic: str) -> int:
        return len(sign(b"x", topic, KEYS["HS256"], now=1.0).split(b".")[0])

    topic = "t" * 1_000
    while header_of(topic + "t") <= 2_048:
        topic += "t"
    topic += "t" * extra
    signed = sign(b"x", topic, KEYS["HS256"], now=1.0)
    if good:
        assert verify(signed, topic, RING).data == b"x"
    else:
        assert reason(signed, topic) is MessageRefusal.MALFORMED


def test_a_large_payload_is_verified() -> None:
    """Larger than the default of the JOSE library."""
    data = b"x" * 500_000
    assert verify(sign(data, TOPIC, KEYS["HS256"]), TOPIC, RING, max_bytes=10**6).data == data


def test_an_error_of_the_jose_library_is_a_bad_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never counts as a valid signature."""

    def fail(*_arguments: object, **_options: object) -> bool:
        raise ValueError("no")

    monkeypatch.setattr("mqttkit.controller.security.signing.jws.validate_compact", fail)
    assert reason(SIGNED["HS256"]) is MessageRefusal.BAD_SIGNATURE


def test_long_topics_and_algorithms_are_cut_in_the_reason() -> None:
    """A peer with a good key cannot write pages into a log."""
    signed = sign(b"{}", "a" * 300, KEYS["HS256"])
    with pytest.raises(MessageRefused) as caught:
        verify(signed, "b" * 300, RING)
    assert caught.value.message == f"signed for topic {'a' * 200!r}, received on {'b' * 200!r}"
    with pytest.raises(MessageRefused) as caught:
        verify(with_header("HS256", alg="x" * 30), TOPIC, RING)
    assert caught.value.message == f"key 'HS256' is for HS256, the message says {'x' * 20!r}"
