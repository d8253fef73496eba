"""Names of a mosquitto broker's files, relative to its root: `paths.root` of a process, /mosquitto in a container."""

CONFIGURATION_FILE = "config/mosquitto.conf"
PASSWORD_FILE = "config/passwd"  # noqa: S105 - a file's name
ACL_FILE = "config/acl"
CA_FILE = "config/certs/ca.crt"
CERTIFICATE_FILE = "config/certs/server.crt"
KEY_FILE = "config/certs/server.key"
REVOCATION_FILE = "config/certs/revoked.crl"
"""Client certificates that the authority has revoked."""
DATABASE_FILE = "data/mosquitto.db"
