"""Handing reports over: the sender, its outbox, and the receipts of the addressee."""
