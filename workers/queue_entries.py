"""What a consumer takes from a queue: a message of ours, or nothing.

Whoever can write to Redis can put anything into a queue. kombu and Celery believe it: an entry that is not
JSON ends the consumer, and one that is may say when it runs (`eta`), what runs next (`chain`, `callbacks`)
and how it is decoded. So an entry is read here first. Only the ids in its one argument are taken over: what
Celery gets is made anew around them (docs/adr/0110).
"""

from __future__ import annotations

import base64
import json
import logging
import re
import uuid
from collections.abc import Iterable
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis
from redis import Connection, ConnectionError, ResponseError

from workers.messages import QUEUES, NotAMessage
from workers.redis_address import RedisAddress, why_not_trusted

log = logging.getLogger(__name__)

ADDRESS = "address"
"""The transport option that holds the `RedisAddress`."""

_TCP_ONLY = ("host", "port", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")


def checked_entry(entry: bytes, queue: str) -> bytes:
    """The entry as this program would have written it, from nothing but its message's ids.

    Raises NotAMessage for everything else: no JSON, pickled, another task, another queue's message.
    """
    task, kind = QUEUES[queue]
    try:
        found = json.loads(entry)
        headers, properties = found["headers"], found["properties"]
        if headers["task"] != task or found["content-type"] != "application/json":
            raise NotAMessage(f"an entry in the queue {queue} is not for the task {task}; it is dropped")
        body = found["body"]
        if properties["body_encoding"] == "base64":
            body = base64.b64decode(body, validate=True)
        [message], _, _ = json.loads(body)
        task_id = headers["id"]
        if not re.fullmatch(r"[0-9a-f-]{36}", task_id):
            raise ValueError("no id of a task")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise NotAMessage(
            f"an entry in the queue {queue} is not what Celery writes there ({type(error).__name__});"
            " it is dropped: does another program use the same Redis?"
        ) from error
    return _entry(queue, task, task_id, kind.from_message(message).as_message())


def _entry(queue: str, task: str, task_id: str, message: dict[str, object]) -> bytes:
    """As Celery's protocol 2 writes it (celery/app/amqp.py, as_task_v2)."""
    embedded = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    body = json.dumps([[message], {}, embedded]).encode()
    headers = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "",
        "kwargsrepr": "",
        "ignore_result": True,
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": None,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_tag": str(uuid.uuid4()),
        "priority": 0,
        "body_encoding": "base64",
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": properties,
        }
    ).encode()


class _Client(kombu_redis.PrefixedStrictRedis):
    """Answers a consumer's BRPOP as if what is not ours had not been there."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        key, entry = answer
        queue = key.decode().partition(kombu_redis.Channel.sep)[0]  # the rest is a priority
        try:
            return key, checked_entry(entry, queue)
        except NotAMessage as error:
            log.warning("%s", error)
            return None


class Channel(kombu_redis.Channel):
    """kombu's, to the Redis of its `RedisAddress`."""

    def __init__(self, connection: Any, **options: Any) -> None:
        try:
            super().__init__(connection, **options)  # type: ignore[no-untyped-call]
        except ConnectionError as error:
            address: RedisAddress = connection.client.transport_options[ADDRESS]
            if (line := why_not_trusted(error, str(address))) is not None:
                raise ConnectionError(line) from error
            raise

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[no-untyped-call]  # refuses an old redis-py

        def client(**options: Any) -> _Client:
            return _Client(global_keyprefix=self.global_keyprefix, **options)  # type: ignore[no-untyped-call]

        return client

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        address: RedisAddress = self.connection.client.transport_options[ADDRESS]
        wanted = address.connection()
        self.connection_class = wanted.pop("connection_class", Connection)
        known: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        unfit = (*_TCP_ONLY, "virtual_host") if "path" in wanted else ("virtual_host",)
        return {name: value for name, value in known.items() if name not in unfit} | wanted

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            self._drop_what_is_no_queue(error, self.active_queues)
            raise Empty from error

    def _size(self, queue: str) -> int:
        """Also the first thing that a consumer asks for when it begins."""
        try:
            return int(super()._size(queue))  # type: ignore[no-untyped-call]
        except ResponseError as error:
            self._drop_what_is_no_queue(error, [queue])
            return 0

    def _drop_what_is_no_queue(self, error: ResponseError, queues: Iterable[str]) -> None:
        """A key with a queue's name that holds no list: nobody could publish or consume there any more.
        Raises any other error again."""
        if "WRONGTYPE" not in str(error):
            raise error
        with self.conn_or_acquire() as client:
            for queue in queues:
                for priority in self.priority_steps:
                    key = self._q_for_pri(queue, priority)  # type: ignore[no-untyped-call]
                    if client.type(self.global_keyprefix + key) not in (b"list", b"none"):
                        log.warning("the queue %s is no list in Redis; what is there is dropped", queue)
                        client.delete(key)


class Transport(kombu_redis.Transport):
    """For `broker_transport`; the broker's URL is only what people see of it."""

    Channel = Channel
    can_parse_url = True  # so that kombu leaves it alone

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        return uri
