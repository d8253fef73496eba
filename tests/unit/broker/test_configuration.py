"""mosquitto.conf from settings."""

from __future__ import annotations

import pytest

from mqttkit.broker.mosquitto.configuration import LIMITS, TUNINGS, Listener, Tuning, first_acl, mosquitto_conf, tuning
from mqttkit.errors import UsageError

VERSION = (2, 0, 11)


def lines_of(*listeners: Listener, settings: Tuning = TUNINGS["default"], **options: object) -> list[str]:
    wanted = listeners or (Listener(port=1883, bind="127.0.0.1"),)
    return mosquitto_conf(wanted, settings, version=VERSION, **options).splitlines()  # type: ignore[arg-type]


def test_anonymous_is_off_unless_it_is_asked_for():
    assert "allow_anonymous false" in lines_of()
    assert "allow_anonymous true" in lines_of(anonymous=True)


def test_a_password_file_and_an_acl_stand_there_even_with_anonymous_on():
    """Without a password file, anonymous brokers take any credentials."""
    assert "password_file config/passwd" in lines_of(anonymous=True)
    assert "acl_file config/acl" in lines_of(anonymous=True)


def test_each_listener_has_the_connection_limit():
    """max_connections counts for the listener above it only."""
    lines = lines_of(Listener(port=1883, bind="127.0.0.1"), Listener(port=9001, bind="127.0.0.1", websockets=True))
    assert lines.count("max_connections 10000") == 2
    assert lines.index("max_connections 10000") == lines.index("listener 1883 127.0.0.1") + 1


@pytest.mark.parametrize(("bind", "domain"), [("127.0.0.1", "ipv4"), ("::1", "ipv6")])
def test_a_websocket_listener_names_its_domain(bind: str, domain: str):
    """Otherwise mosquitto binds it to every address."""
    lines = lines_of(Listener(port=9001, bind=bind, websockets=True))
    assert lines[lines.index(f"listener 9001 {bind}") + 2 :][:2] == [
        "protocol websockets",
        f"socket_domain {domain}",
    ]


def test_a_tls_listener_takes_tls_1_2_or_newer_and_asks_for_a_certificate_where_told():
    lines = lines_of(Listener(port=8883, bind="127.0.0.1", tls=True, client_certificates=True))
    assert "tls_version tlsv1.2" in lines
    assert "require_certificate true" in lines
    assert "keyfile config/certs/server.key" in lines


def test_paths_begin_with_the_root():
    lines = lines_of(root="/mosquitto/")
    assert "password_file /mosquitto/config/passwd" in lines
    assert "persistence_location /mosquitto/data" in lines


def test_without_persistence_nothing_is_saved():
    lines = lines_of(settings=Tuning(persistence=False))
    assert "persistence false" in lines
    assert not [line for line in lines if line.startswith(("autosave", "persistence_location"))]


def test_settings_unknown_to_an_old_version_are_left_out():
    old = mosquitto_conf([Listener(port=1, bind="::1")], Tuning(), version=(1, 4, 15))
    assert "max_packet_size" not in old
    assert "set_tcp_nodelay" not in old
    assert "max_packet_size 10485760" in lines_of()


def test_single_settings_replace_those_of_a_profile():
    settings = tuning("small", {"max_connections": 7, "persistence": False})
    assert settings.max_connections == 7
    assert not settings.persistence
    assert settings.max_inflight_messages == TUNINGS["small"].max_inflight_messages


@pytest.mark.parametrize("name", LIMITS)
def test_zero_is_refused_because_it_means_drop_all_to_some_versions(name: str):
    with pytest.raises(UsageError, match=f"{name} must be"):
        tuning("default", {name: 0})


@pytest.mark.parametrize("profile", TUNINGS)
def test_every_tuning_profile_is_within_the_limits(profile: str):
    for name, (least, greatest) in LIMITS.items():
        assert least <= getattr(TUNINGS[profile], name) <= greatest


def test_unknown_profiles_and_settings_are_refused():
    with pytest.raises(UsageError, match="tuning profile"):
        tuning("huge", {})
    with pytest.raises(UsageError, match="unknown tuning setting"):
        tuning("default", {"max_conections": 1})


def test_only_an_anonymous_broker_grants_topics_before_the_first_user():
    assert first_acl(anonymous=False).splitlines()[2].startswith("user ")
    assert "topic readwrite #" in first_acl(anonymous=True).split("user ")[0]


@pytest.mark.parametrize(("version", "plugins"), [((2, 0, 22), "/usr/lib"), ((2, 1, 2), None)])
def test_a_version_or_machine_without_plugins_gets_the_options(version: tuple[int, ...], plugins: str | None):
    text = mosquitto_conf([Listener(port=1883, bind="127.0.0.1")], Tuning(), version=version, plugins=plugins)
    assert "\npassword_file config/passwd\nacl_file config/acl\n" in text
    assert "plugin" not in text


def test_mosquitto_2_1_gets_plugins_with_the_same_files():
    text = mosquitto_conf(
        [Listener(port=1883, bind="127.0.0.1")], Tuning(), version=(2, 1, 0), plugins="/usr/lib", root="/mosquitto/"
    )
    assert (
        "\nglobal_plugin /usr/lib/mosquitto_password_file.so\nplugin_opt_password_file /mosquitto/config/passwd\n"
        "global_plugin /usr/lib/mosquitto_acl_file.so\nplugin_opt_acl_file /mosquitto/config/acl\n"
    ) in text
    assert "\npassword_file" not in text
