"""Publishes from `put` to their outcome: queue, send window, encoded batches. No socket here."""
