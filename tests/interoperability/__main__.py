"""Run mqttkit against every broker and client library that can be installed here; write the matrix into the page.

    python -m tests.interoperability --directory DIR --write docs/reference/interoperability.md

A broker that cannot be installed is skipped with the reason. Clusters run one at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import say, say_progress, write_section
from tests.interoperability.brokers import BROKERS
from tests.interoperability.clients import exchange, libraries
from tests.interoperability.debian import NotInstalled
from tests.interoperability.faults import fail_over, verify
from tests.interoperability.features import FEATURES, examine
from tests.interoperability.nodes import running

VERSIONS = ("5", "3.1.1")


def main() -> int:
    """Examine the brokers, and the libraries on mosquitto; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path(".venv/interoperability"))
    parser.add_argument("--write", type=Path, help="page with the sections to replace")
    parser.add_argument("--only", action="append", help=f"one of {', '.join(BROKERS)}, clients; can be repeated")
    options = parser.parse_args()
    base: Path = options.directory.resolve()
    base.mkdir(parents=True, exist_ok=True)
    wanted = options.only or [*BROKERS, "clients"]
    results = _results(base)
    for name in wanted:
        say_progress(f"{name} …")
        results[name] = client_results(base) if name == "clients" else broker_results(name, base)
        say(f"{name}: {json.dumps(results[name], ensure_ascii=False)}")
        (base / "results.json").write_text(json.dumps(results))
    if options.write is not None:
        for section, text in tables(results).items():
            write_section(options.write, section, text)
    return 0


def _results(base: Path) -> dict[str, Any]:
    """Return the results of earlier runs: --only replaces some of them."""
    file = base / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}


def broker_results(name: str, base: Path) -> dict[str, Any]:
    """Return what one broker can do, or why it was skipped."""
    directory = base / f"run-{name}"
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir()
    try:
        cluster = BROKERS[name](directory)
        with running(cluster):
            found: dict[str, Any] = {"name": cluster.name, "version": cluster.version, "nodes": len(cluster.nodes)}
            found |= {"settings": cluster.settings, "date": time.strftime("%Y-%m-%d"), "features": examine(cluster)}
            found["verify"] = verify(cluster, directory)
            found["fail-over"] = fail_over(cluster) if len(cluster.nodes) > 1 else ""
            return found
    except NotInstalled as error:
        return {"skipped": str(error)}


def client_results(base: Path) -> dict[str, Any]:
    """Return the results of each library, on the mosquitto of this machine."""
    directory = base / "run-clients"
    directory.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    with running(BROKERS["mosquitto-2.0"](directory)) as cluster:
        for name, library in libraries(base).items():
            if isinstance(library, str):
                found[name] = {"skipped": library}
            else:
                version, command = library
                found[name] = {"version": version, **{each: exchange(cluster, command, each) for each in VERSIONS}}
    return found


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return the text of each section of the page."""
    brokers = {name: results[name] for name in BROKERS if name in results}
    there = {name: found for name, found in brokers.items() if "skipped" not in found}
    feature_rows = [[_title(each), *(each["features"].get(name, "") for name in FEATURES)] for each in there.values()]
    fault_rows = [[_title(each), each["verify"], each["fail-over"] or "-"] for each in there.values()]
    setting_rows = [[_title(each), each["settings"] or "-", each["date"]] for each in there.values()]
    skipped = [
        f"- {name}: not installed here, {found['skipped']}" for name, found in brokers.items() if name not in there
    ]
    client_rows = [
        [name, found.get("version", "-"), *(found.get(each, found.get("skipped", "-")) for each in VERSIONS)]
        for name, found in results.get("clients", {}).items()
    ]
    return {
        "features": "\n".join([_table(["broker", *FEATURES], feature_rows), *skipped]),
        "faults": _table(["broker", "`bridge verify`", "fail-over"], fault_rows),
        "settings": _table(["broker", "settings of these runs (default, and why)", "measured"], setting_rows),
        "clients": _table(["library", "version", *(f"MQTT {each}" for each in VERSIONS)], client_rows),
    }


def _title(found: dict[str, Any]) -> str:
    nodes = f", {found['nodes']} nodes" if found["nodes"] > 1 else ""
    return f"{found['name']} {found['version']}{nodes}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
