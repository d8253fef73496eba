"""paho comes without OpenSSL until TLS is used."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    """Run code in a fresh interpreter; return what it printed."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_client_does_not_load_ssl() -> None:
    """Neither they nor stand-ins are in sys.modules. PySocks would load them if paho imported it."""
    code = """
import mqttkit.client.client, sys
names = ("ssl", "_ssl", "hashlib", "urllib.request", "socks", "email", "http.client")
print([name for name in names if name in sys.modules])
"""
    assert run(code) == "[]"


def test_paho_loads_the_real_module_at_first_use() -> None:
    """A TLS context made through paho is one of the real ssl module."""
    code = """
import mqttkit.client, paho.mqtt.client as paho, sys
client = paho.Client(paho.CallbackAPIVersion.VERSION2)
client.tls_set()
import ssl, urllib.request
print(type(client._ssl_context) is ssl.SSLContext, paho.ssl is ssl, paho.ssl.SSLContext is ssl.SSLContext,
      paho.hashlib.sha1(b"").hexdigest()[:4], paho.urllib.request is sys.modules["urllib.request"])
"""
    assert run(code) == "True False True da39 True"


def test_a_module_loaded_before_stays_what_it_was() -> None:
    """paho gets the real ssl where it was loaded already."""
    assert run("import ssl, mqttkit.client, paho.mqtt.client as paho; print(paho.ssl is ssl)") == "True"
