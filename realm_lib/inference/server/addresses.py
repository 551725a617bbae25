"""Which names and addresses are this machine's own."""

import ipaddress
from urllib.parse import urlsplit


def is_own(host: str) -> bool:
    """Whether ``host`` is localhost or a loopback address, which no other machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_port(host: str) -> str:
    """The name or address of a Host header; empty for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
