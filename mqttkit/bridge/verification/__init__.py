"""The proof that a set-up loses nothing: numbered metrics through broker, bridge and sink."""
