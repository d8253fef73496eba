"""Sinks at a server without a transaction that covers our dedupe keys: a local ledger remembers what was sent."""
