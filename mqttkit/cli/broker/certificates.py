"""`mqttkit broker cert …`: a certificate authority, server and client certificates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mqttkit.cli.broker.options import json_option, name_option, named_broker
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.options.numbers import Number
from mqttkit.cli.options.setting_option import Command
from mqttkit.errors import UsageError

EXPIRED = 1
"""Exit code of `show` if a certificate has expired, or the broker serves another one than its file."""
DAYS = Number("DAYS", low=1, high=36_500, whole=True)


def days_option(default: int) -> Callable[[Command], Command]:
    """Return the option --days with this default."""
    return click.option("--days", type=DAYS, default=default, show_default=True, help="Validity.")


@click.group("cert", cls=CommandGroup)
def cert_group() -> None:
    """Make, show and renew the certificates of a broker's TLS listener."""


@cert_group.command("init", short_help="Make the broker's certificate authority.")
@days_option(3_650)
@name_option
def cert_init(days: int, name: str) -> None:
    """Make a certificate authority for the broker; its key stays on this machine.

    \b
    mqttkit broker cert init
    """
    from mqttkit.broker.certificates.authority import Authority
    from mqttkit.broker.profile import BrokerPaths

    paths = BrokerPaths.of(name)
    if (paths.authority / "ca.key").exists():
        raise UsageError(
            f"{paths.authority} already contains an authority", hint="Renew it with: mqttkit broker cert renew --ca"
        )
    Authority.create(f"mqttkit {name}", days=days).save(paths.authority)
    click.echo(paths.authority / "ca.crt")


@cert_group.command("server", short_help="Sign the broker's certificate.")
@click.option("--san", "names", multiple=True, metavar="NAME", help="Host name or address; can be repeated.")
@days_option(365)
@name_option
def cert_server(names: tuple[str, ...], days: int, name: str) -> None:
    """Sign the broker's certificate for loopback and each --san. A running TLS listener serves it immediately.

    \b
    mqttkit broker cert server --san broker.example --san 192.0.2.7
    """
    from mqttkit.broker.live.certificates import install_server

    info = install_server(named_broker(name), names, days=days)
    click.echo(f"server certificate {info.serial} for {', '.join(info.names)}, until {info.not_after:%Y-%m-%d}")
    _hint_port(name)


@cert_group.command("client")
@click.argument("client", metavar="NAME")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIRECTORY", help="Directory for NAME.crt, NAME.key and ca.crt."
)
@days_option(365)
@name_option
def cert_client(client: str, out: Path | None, days: int, name: str) -> None:
    """Sign a client's certificate and print the names of its files.

    \b
    mqttkit broker cert client lamp --out lamp-certificates
    """
    from mqttkit.broker.live.certificates import clients_directory, export_client
    from mqttkit.broker.profile import BrokerPaths

    paths = BrokerPaths.of(name)
    for path in export_client(paths, client, out or clients_directory(paths), days=days):
        click.echo(path)


@cert_group.command("show", short_help="Show certificates and their expiry.")
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@name_option
@json_option
def cert_show(path: Path | None, name: str, as_json: bool) -> int:
    """Show the certificates of the broker's files and of its listener, or those in FILE.

    Ends with 1 if one has expired, or if the listener serves another certificate than the file.

    \b
    mqttkit broker cert show
    """
    from mqttkit.broker.certificates.authority import inspect
    from mqttkit.broker.live.certificates import ListedCertificate, list_certificates
    from mqttkit.files import read_bytes

    if path is not None:
        listed = [ListedCertificate("file", str(path), inspect(read_bytes(path), where=str(path)))]
    else:
        listed = list_certificates(named_broker(name))
    rows = [_row(entry) for entry in listed]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _show(rows)
    serials = {row["serial"] for row in rows if row["role"] in ("server", "served")}
    if len(serials) > 1:
        click.echo("the broker serves another certificate than its file: mqttkit broker reload", err=True)
    bad = any(row["state"] in ("expired", "not yet valid") for row in rows)
    return EXPIRED if bad or len(serials) > 1 else 0


@cert_group.command("renew", short_help="Renew a certificate, or the authority.")
@click.argument("client", metavar="[CLIENT]", required=False)
@click.option("--ca", is_flag=True, help="Renew the authority with the same key: certificates it signed stay valid.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIRECTORY", help="Directory of the client's files.")
@click.option("--days", type=DAYS, help="Validity.  [365; 3650 for the authority]")
@name_option
def cert_renew(client: str | None, ca: bool, out: Path | None, days: int | None, name: str) -> None:
    """Renew the server's certificate, a client's, or with --ca the authority's. The broker serves it immediately.

    \b
    mqttkit broker cert renew
    mqttkit broker cert renew lamp --out lamp-certificates
    """
    from mqttkit.broker.live import certificates

    if ca and client is not None:
        raise UsageError("use either --ca or a client's name")
    broker = named_broker(name)
    if client is not None:
        directory = out or certificates.clients_directory(broker.paths)
        if not certificates.client_certificate_file(directory, client).exists():
            raise UsageError(f"no certificate of {client!r} in {directory}")
        for path in certificates.export_client(broker.paths, client, directory, days=days or 365, replace=True):
            click.echo(path)
        return
    info = (
        certificates.renew_authority(broker, days=days or 3_650)
        if ca
        else certificates.renew_server(broker, days=days or 365)
    )
    click.echo(f"{info.subject}: certificate {info.serial}, until {info.not_after:%Y-%m-%d}")


@cert_group.command("revoke", short_help="Revoke a client's certificates.")
@click.argument("client", metavar="NAME")
@click.option(
    "--certificate", type=click.Path(path_type=Path), metavar="FILE", help="Revoke only the certificate in FILE."
)
@name_option
def cert_revoke(client: str, certificate: Path | None, name: str) -> None:
    """Revoke every certificate that was issued to a client. A running broker refuses it from then on.

    \b
    mqttkit broker cert revoke lamp
    """
    from mqttkit.broker.live.certificates import revoke_client

    broker = named_broker(name)
    for serial in revoke_client(broker, client, certificate):
        click.echo(f"revoked {client}: certificate {serial}")
    if not broker.spec.client_certificates:
        click.echo("the broker does not require client certificates: a password still suffices", err=True)


def _hint_port(name: str) -> None:
    from mqttkit.broker.profile import load_profile

    profile = load_profile(name)
    if profile is None or not profile.tls_port:
        option = "" if name == "default" else f" --name {name}"
        click.echo(f"to listen with TLS: mqttkit broker restart{option} --tls-port 8883", err=True)


def _row(listed: Any) -> dict[str, Any]:
    info = listed.info
    return {
        "role": listed.role,
        "place": listed.place,
        "subject": info.subject,
        "issuer": info.issuer,
        "names": list(info.names),
        "serial": info.serial,
        "not_before": info.not_before.isoformat(),
        "not_after": info.not_after.isoformat(),
        "days_left": round(info.days_left(), 1),
        "state": info.state(),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("no certificates. Make some: mqttkit broker cert init", err=True)
    for row in rows:
        click.echo(f"{row['role']:<7} {row['subject']}  {row['state']}, {row['days_left']:.0f} days left")
        click.echo(f"        {row['place']}  serial {row['serial']}")
        if row["names"]:
            click.echo(f"        for {', '.join(row['names'])}")
        if row["state"] in ("expiring", "expired"):
            click.echo(f"{row['subject']} is {row['state']}: mqttkit broker cert renew", err=True)
