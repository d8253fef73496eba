"""`mqttkit bridge tenant`: who may store metrics."""

from __future__ import annotations

import click

from mqttkit.cli.bridge.options import store_options
from mqttkit.cli.bridge.stores import opened_registry
from mqttkit.cli.logs import set_up_logging
from mqttkit.cli.options.help import CommandGroup
from mqttkit.cli.options.loading import load_without_broker
from mqttkit.errors import UsageError


@click.group(cls=CommandGroup)
def tenant() -> None:
    """Add, remove and list the tenants that may store metrics."""


@tenant.command()
@click.argument("tenant_id")
@click.option("--name", default="", metavar="NAME", help="Readable name of the tenant.")
@store_options
def add(tenant_id: str, name: str, config: str | None) -> None:
    """Add a tenant.

    \b
    mqttkit bridge tenant add 6f1d7c1e-0000-4000-8000-000000000002 --name Second --tenants tenants.yaml
    """
    set_up_logging()
    with opened_registry(load_without_broker(config).bridge) as registry:
        click.echo("added" if registry.add(tenant_id, name) else "already known")


@tenant.command()
@click.argument("tenant_id")
@store_options
def remove(tenant_id: str, config: str | None) -> None:
    """Remove a tenant: its metrics become dead letters from now on.

    \b
    mqttkit bridge tenant remove 6f1d7c1e-0000-4000-8000-000000000002 --tenants tenants.yaml
    """
    set_up_logging()
    with opened_registry(load_without_broker(config).bridge) as registry:
        if not registry.remove(tenant_id):
            raise UsageError(f"tenant {tenant_id} is not known", hint="List them: mqttkit bridge tenant list")
        click.echo("removed")


@tenant.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each tenant.")
@store_options
def list_tenants(config: str | None, as_json: bool) -> None:
    """List the tenants: identifier, tab, name.

    \b
    mqttkit bridge tenant list --tenants tenants.yaml
    """
    from mqttkit.cli.output.render import print_json

    set_up_logging()
    with opened_registry(load_without_broker(config).bridge) as registry:
        for tenant_id, name in registry.all().items():
            if as_json:
                print_json({"tenant_id": tenant_id, "name": name})
                continue
            click.echo(f"{tenant_id}\t{name}" if name else tenant_id)
