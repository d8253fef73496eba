"""paho and bleak do not load OpenSSL until TLS is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.tls import Authority


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


OPEN_BLEAK = """
import sys
from mqttkit.scanner import open_source
from mqttkit.settings import ScannerSettings
open_source(ScannerSettings(source="bleak"))
"""


def test_opening_bleak_does_not_load_ssl() -> None:
    """asyncio imports it for TLS, and dbus-fast hashlib and an XML parser for introspection."""
    names = (
        "ssl",
        "_ssl",
        "hashlib",
        "_hashlib",
        "asyncio.sslproto",
        "xml.etree.ElementTree",
        "pyexpat",
        "subprocess",
        "typing_extensions",
    )
    assert run(f"{OPEN_BLEAK}\nprint([name for name in {names} if name in sys.modules])") == "[]"


def test_asyncio_speaks_tls_after_bleak_was_opened(tmp_path: Path) -> None:
    """Over TLS a server and a client in the same loop talk to each other."""
    authority = Authority(tmp_path)
    server = authority.sign("localhost", names=("localhost",))
    code = f"""{OPEN_BLEAK}
import asyncio, ssl

async def answer(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def talk():
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain({server.cert!r}, {server.key!r})
    client_side = ssl.create_default_context(cafile={authority.file!r})
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname="localhost")
    writer.write(b"hello\\n")
    print((await reader.readline()).decode().strip(), writer.get_extra_info("ssl_object").version()[:3])
    writer.close()

asyncio.run(talk())
"""
    assert run(code) == "hello TLS"


def test_asyncio_runs_programs_after_bleak_was_opened() -> None:
    """Its constants are those of subprocess."""
    code = f"""{OPEN_BLEAK}
import asyncio, subprocess

async def run():
    program = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
    print((await program.communicate())[0].decode().strip())

asyncio.run(run())
print([getattr(asyncio.subprocess, name) == getattr(subprocess, name) for name in ("PIPE", "STDOUT", "DEVNULL")])
"""
    assert run(code).splitlines() == ["hello", "[True, True, True]"]


def test_dbus_fast_reads_xml_after_bleak_was_opened() -> None:
    """Introspection of an object on the bus."""
    code = f"""{OPEN_BLEAK}
from dbus_fast.introspection import Node
node = Node.parse('<node><interface name="org.example.One"/></node>')
print([interface.name for interface in node.interfaces], "org.example.One" in node.tostring())
"""
    assert run(code) == "['org.example.One'] True"


def test_the_stand_in_of_ssl_knows_real_sockets_once_ssl_is_loaded() -> None:
    """asyncio refuses a TLS socket by its class."""
    code = f"""{OPEN_BLEAK}
import asyncio.base_events as base
before = base.ssl.SSLSocket
import ssl
print(before is ssl.SSLSocket, base.ssl.SSLSocket is ssl.SSLSocket)
"""
    assert run(code) == "False True"
