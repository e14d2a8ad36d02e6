"""What each kind of fault does. A deed says in a few words whom it struck; what is to be undone, it books."""

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import redis

from tests.faults.fleet import Fleet, Member
from workers.fleet import Timing
from workers.messages import STEP_QUEUE, STREAM_QUEUE

Later = Callable[[float, str, Callable[[], object]], None]
"""`later(seconds, words, act)`: also done early, when the faults stop."""

QUEUE_PREFIX = "cbtfleet:queue:"


class Deeds:
    """The faults of one schedule, on one fleet. `run` is the run that they disturb."""

    def __init__(self, fleet: Fleet, later: Later) -> None:
        self._fleet = fleet
        self._later = later
        self._timing = Timing().scaled(fleet.schedule.time_scale)
        self.run = ""
        self.slow = 0.0
        self.stolen = 0

    def do(self, kind: str, dice: random.Random) -> str | None:
        """Whom it struck; None when there was nobody to strike."""
        words = kind.split()
        if kind.startswith(("kill a ", "stop a ")):
            return self._kill_or_stop(kind, dice)
        if kind.endswith("message"):
            return self._steal(words[0], STREAM_QUEUE if words[2] == "stream" else STEP_QUEUE, dice)
        return _DEEDS[kind](self, dice)

    # processes

    def _kill_or_stop(self, kind: str, dice: random.Random) -> str | None:
        member = self._pick("scheduler" if "scheduler" in kind else "worker", dice)
        if member is None:
            return None
        kills = kind.startswith("kill")
        if "stream process" in kind:
            children = self._busy(member) or member.children()
            if not children:
                return None
            pid = dice.choice(children)
            member.send(signal.SIGKILL if kills else signal.SIGSTOP, pid)
            if not kills:
                self._later(
                    self._how_long(kind, dice), f"{pid} goes on", lambda: member.send(signal.SIGCONT, pid)
                )
            return f"{member.name} process {pid}"
        whole = "node" in kind or "scheduler" in kind
        send = member.send_all if whole else member.send
        send(signal.SIGKILL if kills else signal.SIGSTOP)
        if kills:
            self._replace(member, dice)
        else:
            self._later(self._how_long(kind, dice), f"{member.name} goes on", lambda: send(signal.SIGCONT))
        return member.name

    def _how_long(self, kind: str, dice: random.Random) -> float:
        if "moment" in kind:
            return dice.uniform(0.2, 0.8) * self._timing.cut_after
        return self._timing.lease + self._timing.quarantine + dice.uniform(0.5, 3.0)

    def _pick(self, kind: str, dice: random.Random) -> Member | None:
        """Rather one that has a connection to a host."""
        members = self._fleet.of(kind)
        busy = [member for member in members if kind == "worker" and self._busy(member)]
        return dice.choice(busy or members) if members else None

    def _busy(self, member: Member) -> list[int]:
        return member.busy_children(self._fleet.pool.facts["nbd_port"])

    def _replace(self, member: Member, dice: random.Random) -> None:
        kind = member.name.partition("-")[0]
        self._later(dice.uniform(0.2, 3.0), f"a new {kind}", lambda: self._fleet.start(kind))

    def _joins(self, dice: random.Random) -> str:
        return self._fleet.start("worker").name

    def _second_scheduler(self, dice: random.Random) -> str:
        return self._fleet.start("scheduler").name

    def _leaves(self, dice: random.Random) -> str | None:
        member = self._pick("worker", dice)
        if member is None:
            return None
        self._fleet.ask_to_end(member)
        self._replace(member, dice)
        return member.name

    def _power(self, dice: random.Random) -> str | None:
        """Its connections end, but no host hears of it; later somebody restarts the hosts' NBD service."""
        member = self._pick("worker", dice)
        if member is None:
            return None
        self._fault(nbd="vanish", count=-1)
        member.send_all(signal.SIGKILL)
        member.process.wait(10)
        self._replace(member, dice)
        self._later(1.0, "the network hears again", lambda: self._clear("vanish"))
        after = self._timing.lease + self._timing.quarantine + 3.0

        def restart_all() -> None:
            self._clear("vanish")
            for host in self._fleet.pool.hosts:
                self._fleet.pool.post("/restart-nbd", host=host)

        self._later(after, "the hosts' NBD services restart", restart_all)
        return member.name

    # Redis

    def _restart_redis(self, dice: random.Random) -> str:
        return self._down(signal.SIGTERM, dice)

    def _kill_redis(self, dice: random.Random) -> str:
        return self._down(signal.SIGKILL, dice)

    def _down(self, how: signal.Signals, dice: random.Random) -> str:
        away = dice.uniform(0.1, 3.0)
        self._fleet.redis.stop(how)
        self._later(away, "Redis is back", self._fleet.redis.ensure)
        return f"away for {away:.1f} s"

    def _empty(self, dice: random.Random) -> str:
        with self._client() as client:
            client.flushall()
        after, by_hand, run = dice.uniform(0.2, 3.0), dice.random() < 0.5, self.run

        def rebuild() -> None:
            if by_hand:
                self._fleet.command("resume", run)
                return
            for member in self._fleet.of("scheduler"):
                self._fleet.ask_to_end(member)
            self._fleet.start("scheduler")

        self._later(after, "cbtfleet resume" if by_hand else "the scheduler is restarted", rebuild)
        return "all keys"

    def _pause_redis(self, dice: random.Random) -> str:
        milliseconds = dice.randint(300, 6000)
        with self._client() as client:
            client.execute_command("CLIENT", "PAUSE", milliseconds)
        return f"for {milliseconds} ms"

    def _sleep(self, dice: random.Random) -> str:
        seconds = round(dice.uniform(0.5, 4.0), 1)

        def sleep() -> None:
            with suppress(redis.RedisError), self._client() as client:
                client.execute_command("DEBUG", "SLEEP", seconds)

        threading.Thread(target=sleep, daemon=True).start()
        return f"for {seconds} s"

    def _kill_clients(self, dice: random.Random) -> str:
        with self._client() as client:
            killed = client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        return f"{killed} connections"

    def _steal(self, verb: str, queue: str, dice: random.Random) -> str:
        """Stands in the queue as one more consumer, until a message comes by."""
        wait = dice.uniform(0.5, 4.0)

        def steal() -> None:
            with suppress(redis.RedisError), closing(redis.Redis.from_url(self._fleet.redis.url)) as client:
                taken = client.brpop(QUEUE_PREFIX + queue, timeout=4)
                if taken is None:
                    return
                key, message = taken
                if verb == "double":
                    client.lpush(key, message, message)
                elif verb == "delay":
                    self._later(
                        wait, f"a message of {queue} comes after all", lambda: self._push(key, message)
                    )
                self.stolen += 1

        threading.Thread(target=steal, daemon=True).start()
        return queue

    def _push(self, key: bytes, message: bytes) -> None:
        with self._client() as client:
            client.lpush(key, message)

    def _client(self) -> closing[Any]:
        return closing(self._fleet.redis.client())

    # the pool and the store

    def _fault(self, **rule: object) -> None:
        """The rule that slows all reads stays the last: the first rule that matches strikes."""
        self._clear("slow")
        self._fleet.pool.post("/fault", **rule)
        self.slow_down()

    def reset_slow(self) -> None:
        self._clear("slow")
        self.slow_down()

    def slow_down(self) -> None:
        self._fleet.pool.post("/fault", nbd="slow", seconds=self.slow, count=-1)

    def _clear(self, name: str) -> None:
        self._fleet.pool.post("/fault/clear", nbd=name)

    def _host(self, dice: random.Random) -> str:
        return dice.choice(self._fleet.pool.hosts)

    def _restart_host(self, dice: random.Random) -> str:
        return self._power_cycle(dice.choice(self._fleet.pool.hosts[1:]), dice)

    def _restart_master(self, dice: random.Random) -> str:
        return self._power_cycle(self._fleet.pool.hosts[0], dice)

    def _power_cycle(self, host: str, dice: random.Random) -> str:
        self._fleet.pool.post("/host", host=host, state="down")
        away = dice.uniform(0.5, 4.0)
        self._later(away, f"{host} is up", lambda: self._fleet.pool.post("/host", host=host, state="up"))
        return f"{host} for {away:.1f} s"

    def _restart_nbd(self, dice: random.Random) -> str:
        host = self._host(dice)
        self._fleet.pool.post("/restart-nbd", host=host)
        return host

    def _late(self, dice: random.Random) -> str:
        """Later than `linger`, and sometimes later than `quarantine`."""
        host, seconds = self._host(dice), round(dice.uniform(1.0, 10.0), 1)
        count = dice.choice((1, 3, -1))
        self._fault(nbd="late_release", seconds=seconds, count=count, host=host)
        self._later(10.0, f"{host} is quick again", lambda: self._clear("late_release"))
        return f"{host}, {seconds} s, {count} times"

    def _black_hole(self, dice: random.Random) -> str:
        host = self._host(dice)
        self._fault(nbd="stall_at_accept", host=host, count=-1)

        def heal() -> None:
            self._clear("stall_at_accept")
            self._fleet.pool.post("/restart-nbd", host=host)

        self._later(15.0, f"{host} answers again", heal)
        return host

    def _drops(self, dice: random.Random) -> str:
        host, count = self._host(dice), dice.randint(1, 4)
        for _ in range(count):
            how = dice.choice(("close_after_bytes", "reset"))
            self._fault(nbd=how, bytes=dice.randrange(1, 40 << 20), host=host)
        return f"{host}, {count} times"

    def _refuses(self, dice: random.Random) -> str:
        host, count = self._host(dice), dice.randint(1, 3)
        self._fault(nbd="eof_at_export", host=host, count=count)
        return f"{host}, {count} times"

    def _stranger(self, dice: random.Random) -> str:
        """Somebody's idle connections: a host counts them from accept, whatever comes after it."""
        pool = self._fleet.pool
        host = dice.choice(pool.facts["hosts"])
        place = host["address"], pool.facts["nbd_port"]
        wanted = dice.randint(1, self._fleet.schedule.cap)
        held = [socket.create_connection(place, timeout=5) for _ in range(wanted)]

        def close() -> None:
            for one in held:
                one.close()

        self._later(dice.uniform(2.0, 8.0), "the stranger leaves", close)
        return f"{wanted} of {host['uuid']}"

    def _store(self, dice: random.Random) -> str:
        away = dice.uniform(0.5, 4.0)
        self._fleet.store.go_away()
        self._later(away, "the store is back", self._fleet.store.come_back)
        return f"for {away:.1f} s"

    def _cancel(self, dice: random.Random) -> str | None:
        return "cancelled" if self._fleet.command("cancel", self.run).returncode == 0 else None


_DEEDS: dict[str, Callable[[Deeds, random.Random], str | None]] = {
    "a worker joins": Deeds._joins,
    "a worker leaves": Deeds._leaves,
    "a worker's machine loses its power": Deeds._power,
    "a second scheduler": Deeds._second_scheduler,
    "restart Redis": Deeds._restart_redis,
    "kill Redis": Deeds._kill_redis,
    "empty Redis": Deeds._empty,
    "pause Redis": Deeds._pause_redis,
    "Redis sleeps": Deeds._sleep,
    "kill Redis's clients": Deeds._kill_clients,
    "restart a host": Deeds._restart_host,
    "restart the master": Deeds._restart_master,
    "restart a host's NBD service": Deeds._restart_nbd,
    "a host frees its slots late": Deeds._late,
    "a host is a black hole": Deeds._black_hole,
    "a host drops connections in the data": Deeds._drops,
    "a host refuses exports": Deeds._refuses,
    "a stranger takes a host's connections": Deeds._stranger,
    "the store is away": Deeds._store,
    "cancel the run": Deeds._cancel,
}
