"""Members of groups of bridges."""

from __future__ import annotations

from mqttkit.bridge.metric import reserved_prefix
from mqttkit.web import bridge_status
from mqttkit.web.branches import BranchMessage
from mqttkit.web.bridge_status import BridgeMembers

PREFIX = "metrics/_mqttkit/group"


def test_a_member_runs_until_it_is_silent_or_leaves() -> None:
    members = BridgeMembers(reserved_prefix("metrics/{tenant_id}/{agent_id}/{metric_name}"))
    assert members.prefix == PREFIX
    members.add([BranchMessage(f"{PREFIX}/ingest/b%2F1", b'{"host": "m1", "expires": 60}', 0.0)])
    members.add([BranchMessage(f"{PREFIX}/ingest/b2", b"no object", 15.0)])
    first, second = members.rows(21.0)
    assert (first["name"], first["state"]) == ("b/1", "missing")
    assert (second["name"], second["state"]) == ("b2", "running")
    assert first["figures"] == {"group": "ingest", "machine": "m1", "last message": "21 s ago"}
    members.add([BranchMessage(f"{PREFIX}/ingest/b2", b"", 22.0)])
    assert [row["name"] for row in members.rows(22.0)] == ["b/1"]


def test_figures_are_those_of_the_samples_that_it_knows() -> None:
    text = (
        b"# HELP x\nmqttkit_bridge_stored_metrics_total 12345.0\nmqttkit_bridge_queue_fill_ratio 0.25\nother 1\nbroken"
    )
    assert bridge_status._figures(text) == {"stored": "12,345", "queue fill": "0.25"}
