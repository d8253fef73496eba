"""Accounts of a broker: users with passwords, and what each may read and write."""

from __future__ import annotations

from mqttkit.broker.passwords import PasswordFile, PasswordHash, generate_password, password_line

__all__ = ["PasswordFile", "PasswordHash", "generate_password", "password_line"]
