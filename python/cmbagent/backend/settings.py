"""Settings of the server."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmbagent.errors import ConfigurationError

TOKEN_VARIABLE = "CMBAGENT_TOKEN"
"""The environment variable that holds the server's token."""

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Settings:
    """How the server is reached and what it allows.

    Attributes:
        host: the address it listens at.
        port: the port.
        token: what clients must send as `Authorization: Bearer …`; `None` lets everybody in.
        root: the directory below which runs have their work directories.
        hosts: names, besides its address, under which the server may be asked for in the header `Host`.
        resume: whether unfinished runs of other servers that have gone go on by themselves.
        take_up_seconds: how often such runs are looked for, about.
        max_body: bytes of a request's body.
        max_path: characters of a request's path and query.
        max_task: characters of a task.
        max_runs: runs in progress at the same time.
        max_listeners: connections that listen to events at the same time.
        keep_alive_seconds: how often a silent stream of events shows that it is alive.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    root: Path = Path("~/cmbagent_output")
    hosts: tuple[str, ...] = ()
    resume: bool = True
    take_up_seconds: float = 60.0
    max_body: int = 10 * MEGABYTE
    max_path: int = 4096
    max_task: int = 1_000_000
    max_runs: int = 500
    max_listeners: int = 1000
    keep_alive_seconds: float = 15.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **given: object) -> Settings:
        """Make settings with the token of `CMBAGENT_TOKEN`.

        Args:
            environment: where to look.
            **given: fields that are set.
        """
        token = environment.get(TOKEN_VARIABLE, "").strip() or None
        return cls(**{"token": token, **given})  # type: ignore[arg-type]

    def check(self) -> None:
        """Refuse to be reached from elsewhere without a token.

        Raises:
            ConfigurationError: `host` is no loopback address and there is no token, or the token is short.
        """
        if self.token is None and not is_loopback(self.host):
            raise ConfigurationError(
                f"the server would be reached from other machines at {self.host}, and whoever reaches it can "
                f"run code here: set {TOKEN_VARIABLE} to a long random text (such as `openssl rand -hex 32` "
                "gives), or listen at 127.0.0.1"
            )
        if self.token is not None and (len(self.token) < 16 or not self.token.isascii()):
            raise ConfigurationError(
                f"the token has {len(self.token)} characters; expected at least 16, in ASCII, such as "
                "`openssl rand -hex 32` gives"
            )

    @property
    def base(self) -> Path:
        """The root as one absolute path, symbolic links resolved."""
        return Path(os.path.realpath(self.root.expanduser()))

    def is_asked_for(self, host: str) -> bool:
        """Return whether a `Host` header may name this server.

        A page elsewhere whose name is made to point here would send its own name.
        """
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        own = {self.host.lower(), "localhost", *(each.lower() for each in self.hosts)}
        # An address cannot be made to point elsewhere.
        return name in own or _is_address(name)


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
