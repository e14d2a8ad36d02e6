"""Finding the master and logging in there, also when the configured host is away or no longer the master.

    configured url --HOST_IS_SLAVE--> the master it names ---> session
         | does not answer                | does not answer
         v                                v
    the other hosts of the pool, as far as they were seen before: each names the master, or is it

Whom to trust is one rule for all of them (docs/adr/0031-trusting-a-pool.md, 0034-failover.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from workers.errors import ConfigurationError
from workers.settings import PoolSettings
from workers.xenapi.connection import Server
from workers.xenapi.errors import (
    AnswerLost,
    BadAnswer,
    HostStarting,
    LoginRefused,
    PoolUnreachable,
    XapiError,
    XapiFailure,
)
from workers.xenapi.login import Login
from workers.xenapi.memory import PoolMemory

log = logging.getLogger(__name__)

STARTING_SECONDS = 60.0
"""How long to wait for hosts that say that they are starting: XAPI's restart takes less, a reboot longer."""
_PAUSE_FIRST, _PAUSE_LONGEST = 1.0, 8.0
_MASTER_HOPS = 2  # a member names the master; once more if the master changed that very moment
_MEMBERS_ASKED = 8  # the others of a large pool would name the same master


def log_in(
    pool: str, settings: PoolSettings, originator: str, memory: PoolMemory, patience: float = STARTING_SECONDS
) -> Login:
    """A login at the pool's master; hosts that are starting are waited for, `patience` seconds at most.

    Raises PoolUnreachable, PoolUntrusted, LoginRefused, another XapiError, or ConfigurationError.
    """
    password = settings.read_password()
    until = time.monotonic() + patience
    pause = _PAUSE_FIRST
    while True:
        search = _Search(settings, password, originator)
        try:
            return search.over(Server.from_settings(pool, settings), memory.addresses)
        except HostStarting as starting:
            if time.monotonic() + pause > until:
                raise
            log.info("%s; asking again in %.0f s", starting, pause)
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE_LONGEST)


class _Search:
    """One round of asking."""

    def __init__(self, settings: PoolSettings, password: str, originator: str) -> None:
        self._settings = settings
        self._password = password
        self._originator = originator
        self._away: dict[str, XapiError] = {}

    def over(self, configured: Server, addresses: tuple[str, ...]) -> Login:
        try:
            return self._follow(configured)
        except (PoolUnreachable, AnswerLost) as error:
            failure: XapiError = error
        asked = 0
        for server in self._others(configured, addresses):
            asked += 1
            try:
                found = self._follow(server)
            except LoginRefused:
                raise
            except (XapiError, ConfigurationError) as error:  # not trusted, too: no password went there then
                log.debug("%s", error)
                if isinstance(error, HostStarting):
                    failure = error
                continue
            log.warning("%s; going on with the master %s", failure, found.host)
            return found
        if asked and isinstance(failure, PoolUnreachable):
            raise type(failure)(
                f"{failure}; asked {asked} more of its hosts, and none led to a master"
            ) from failure
        raise failure

    def _others(self, configured: Server, addresses: tuple[str, ...]) -> Iterator[Server]:
        others = []
        for address in filter(None, addresses):
            try:
                others.append(configured.at(address))
            except BadAnswer as error:
                log.debug("%s", error)
        yield from [each for each in others if each.host not in self._away][:_MEMBERS_ASKED]

    def _follow(self, server: Server) -> Login:
        for _ in range(_MASTER_HOPS + 1):
            if server.host in self._away:
                raise self._away[server.host]
            login = Login(server, self._settings.timeout)
            try:
                login.open(self._settings.username, self._password, self._originator)
                return login
            except (PoolUnreachable, AnswerLost) as error:
                login.drop()
                self._away[server.host] = error
                raise
            except XapiFailure as failure:
                login.drop()
                if failure.code != "HOST_IS_SLAVE" or not any(failure.params[:1]):
                    raise
                log.debug("pool %s: %s is not the master", server.pool, server.host)
                server = server.at(failure.params[0])
            except BaseException:
                login.drop()
                raise
        raise PoolUnreachable(
            f"pool {server.pool}: its hosts keep naming another master; is the pool electing one?"
        )
