"""An HTTP server that stores each batch once: `python -m tests.support.idempotent_server PORT FILE`."""

from __future__ import annotations

import json
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


def serve(port: int, path: str) -> None:
    """Store the metrics of each Idempotency-Key in one transaction before answering."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS batches (key TEXT PRIMARY KEY) WITHOUT ROWID")
    database.execute("CREATE TABLE IF NOT EXISTS metrics (value REAL NOT NULL)")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            database.execute("BEGIN IMMEDIATE")
            key = (self.headers["Idempotency-Key"],)
            if database.execute("INSERT INTO batches VALUES (?) ON CONFLICT DO NOTHING", key).rowcount:
                database.executemany("INSERT INTO metrics VALUES (?)", [(metric["value"],) for metric in body])
            database.execute("COMMIT")
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
