"""Objects in an S3 bucket. The only file that knows boto3.

What is asked of the store is old and plain, so that it need not be AWS: signature version 4 with the SHA-256
of the payload (the store checks every upload end to end, over https too), no newer checksum headers, no
`Expect`, and PUT with `If-None-Match: *`.

Retries are ours and not botocore's, because three things need to know of them: an answer cut off in its body,
which botocore does not retry; the 409 of two conditional PUTs at once; and the 412 of a PUT whose first try
did succeed, see `S3Store.put_if_absent`.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from workers.errors import ConfigurationError
from workers.repository.store import (
    AccessDenied,
    BucketMissing,
    Buffer,
    ClockWrong,
    ConditionalPutRefused,
    CredentialsMissing,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTooLarge,
    ObjectTruncated,
    StoreError,
    StoreFull,
    StoreUnavailable,
    check_key,
    check_prefix,
)
from workers.settings import RepositorySettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_Answer = TypeVar("_Answer")

_CHUNK = 256 << 10
"""Bytes of a body given to the socket at once. The socket's time limit holds for one such piece: given a
whole pack, it would end every upload that is slower than a pack in `connect_timeout`."""

_TRY_AGAIN = {
    "BadDigest", "BandwidthLimitExceeded", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
    "OperationAborted", "RequestLimitExceeded", "RequestTimeout", "RequestTimeoutException",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}  # fmt: skip
"""S3 error codes of the moment, whatever their status (some of them are 400s and 409s)."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_TRY_AGAIN_STATUS = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long we wait for a store, in seconds, and how often we ask.

    The pause before try n is random between 0 and `pause` * 2^(n-2), at most `longest_pause`: eight tries
    bridge half a minute. A store that never answered yet is more often a wrong address than an outage, so
    it gets `first_tries`.
    """

    connect: float = 10.0
    read: float = 60.0
    tries: int = 8
    first_tries: int = 4
    pause: float = 0.5
    longest_pause: float = 20.0


class S3Store:
    """A Store in one bucket, below an optional prefix. Open it with `S3Store.open`, after any fork."""

    def __init__(
        self,
        session: boto3.session.Session,
        client: S3Client,
        bucket: str,
        prefix: str,
        place: str,
        patience: Patience,
    ) -> None:
        self._session = session
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._place = place
        self._patience = patience
        self._reached = False

    @classmethod
    def open(
        cls, settings: RepositorySettings, *, connections: int = 32, patience: Patience = Patience()
    ) -> S3Store:
        """A client for `s3://bucket/prefix`; nothing is sent yet.

        `connections` is how many threads can use the store without waiting for each other's connection.
        Credentials come from the usual AWS chain. Raises ConfigurationError or CredentialsMissing.
        """
        bucket, _, path = settings.url.removeprefix("s3://").partition("/")
        prefix = path.strip("/")
        if not _BUCKET.fullmatch(bucket):  # not repeated: people write credentials there
            raise ConfigurationError(
                'repository.url: that is no bucket name; it must look like "s3://backups/prod"'
            )
        endpoint = settings.endpoint_url
        addressing = settings.addressing
        if addressing == "auto" and endpoint is not None:
            addressing = "path"
        if settings.ca_file is not None and not settings.ca_file.is_file():
            raise ConfigurationError(f"repository.ca_file: no file {settings.ca_file}")
        config = Config(
            signature_version="s3v4",
            connect_timeout=patience.connect,
            read_timeout=patience.read,
            max_pool_connections=connections,
            tcp_keepalive=True,
            retries={"mode": "standard", "total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": addressing, "payload_signing_enabled": True},
        )
        try:
            session = boto3.session.Session()
            client = session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=settings.region or session.region_name or "us-east-1",
                verify=None if settings.ca_file is None else str(settings.ca_file),
                config=config,
            )
        except boto.ProfileNotFound as error:
            raise CredentialsMissing(f"credentials of the S3 store: {error}") from error
        except (boto.BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"repository: cannot make an S3 client: {error}") from error
        client.meta.events.register_last("before-call.s3", _without_expect)
        place = f"bucket {bucket} at {_without_user(client.meta.endpoint_url)}"
        return cls(session, client, bucket, f"{prefix}/" if prefix else "", place, patience)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        """See Store. `data` is not copied.

        A try may have succeeded with its answer lost; the next one is then told 412. So a 412 on any try
        but the first is judged by the object itself: equal bytes are this call's success. Should another
        writer have put equal bytes, nothing is lost by taking them for ours. Who may not read the object (a
        worker, its packs) is told that the key is taken.
        """
        tried = 0

        def put() -> None:
            nonlocal tried
            tried += 1
            body = cast(Any, _Body(data))
            self._client.put_object(
                Bucket=self._bucket, Key=self._name(key), Body=body, ContentLength=body.size, IfNoneMatch="*"
            )

        try:
            self._ask("put", key, put)
        except ObjectExists:
            if tried == 1 or not self._is_held(key, data):
                raise

    def get(self, key: str, limit: int) -> bytes:
        name = self._name(key)

        def small_enough(answer: Any) -> None:
            if (size := self._length(answer)) > limit:
                raise ObjectTooLarge(key, size, limit)

        return self._ask("get", key, lambda: self._read(small_enough, Key=name))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"no range: {length} bytes from {start}")
        if length == 0:
            return b""
        read = partial(self._read_range, self._name(key), start, length)
        data = self._ask("get", key, read, end=start + length)
        if len(data) != length:
            raise ObjectTruncated(key, start + length, start + len(data))
        return data

    def head(self, key: str) -> ObjectInfo:
        name = self._name(key)
        try:
            answer = self._ask("head", key, lambda: self._client.head_object(Bucket=self._bucket, Key=name))
        except AccessDenied:  # an answer to HEAD has no room for the reason: wrong credentials, clock, rights
            self._ask("head", key, partial(self._read_range, name, 0, 1))
            raise
        return ObjectInfo(key, answer["ContentLength"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store. A page is 1,000 keys; a listing out of order or without an end raises StoreError."""
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + check_prefix(prefix)}
        latest = ""
        while True:
            page = self._ask("list", prefix or "everything", lambda: self._client.list_objects_v2(**where))
            for item in page.get("Contents", []):
                if item["Key"] <= latest:
                    raise StoreError(f"{self._place} lists keys out of order; its listing cannot be trusted")
                latest = item["Key"]
                yield ObjectInfo(latest.removeprefix(self._prefix), item["Size"])
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == where.get("ContinuationToken"):
                raise StoreError(f"{self._place} ended its listing of {prefix!r} before its end")
            where["ContinuationToken"] = token

    def delete(self, key: str) -> None:
        name = self._name(key)
        try:
            self._ask("delete", key, lambda: self._client.delete_object(Bucket=self._bucket, Key=name))
        except ObjectMissing:
            return  # S3 answers 204; some others say that it is not there

    def object_lock(self) -> Mapping[str, Any] | None:
        """The bucket's object lock configuration, empty without one; None when the store does not tell.

        Asked once: stores that know no such request, or credentials that may not make it, are no failure.
        """
        try:
            answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
        except boto.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            return {} if code == "ObjectLockConfigurationNotFoundError" else None
        except (boto.BotoCoreError, ResponseParserError):
            return None
        return cast(Mapping[str, Any], answer.get("ObjectLockConfiguration", {}))

    def versioning(self) -> str | None:
        """The bucket's: "Enabled", "Suspended" or ""; None when the store does not tell. Asked once."""
        try:
            return self._client.get_bucket_versioning(Bucket=self._bucket).get("Status", "")
        except (boto.ClientError, boto.BotoCoreError, ResponseParserError):
            return None

    def access_key_id(self) -> str:
        """Which of its users the store takes us for; empty without credentials."""
        found = self._session.get_credentials()
        return "" if found is None else found.access_key

    def close(self) -> None:
        self._client.close()

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _read(self, check: Callable[[Any], None], **what: Any) -> bytes:
        """The body of an answer that `check` has passed, by its head alone; else none of it is read."""
        answer = self._client.get_object(Bucket=self._bucket, **what)
        with closing(answer["Body"]) as body:
            check(answer)
            return body.read()

    def _read_range(self, name: str, start: int, length: int) -> bytes:
        def only_the_range(answer: Any) -> None:
            size, is_part = self._length(answer), answer["ResponseMetadata"]["HTTPStatusCode"] == 206
            if size > length or not (is_part or (start == 0 and size == length)):
                raise StoreError(f"{self._place} ignores the Range header; it cannot hold a repository")

        return self._read(only_the_range, Key=name, Range=f"bytes={start}-{start + length - 1}")

    def _length(self, answer: Any) -> int:
        length = answer.get("ContentLength")
        if length is None:
            raise StoreError(
                f"{self._place} does not say how long its objects are; it cannot hold a repository"
            )
        return int(length)

    def _is_held(self, key: str, data: Buffer) -> bool:
        """Whether the object has these bytes, as far as we may know."""
        try:
            return self._holds(key, data)
        except AccessDenied:
            return False

    def _holds(self, key: str, data: Buffer) -> bool:
        wanted = memoryview(data)
        return self.head(key).size == wanted.nbytes and memoryview(self.get(key, wanted.nbytes)) == wanted

    def _ask(self, verb: str, key: str, call: Callable[[], _Answer], end: int = 0) -> _Answer:
        """The one place where requests are made, tried again, and their errors translated."""
        for attempt in range(1, self._patience.tries + 1):
            try:
                answer = call()
            except ResponseParserError as error:
                raise StoreError(
                    f"{self._place} does not answer like S3 ({verb} {key}); check repository.endpoint_url"
                ) from error
            except (boto.ClientError, boto.BotoCoreError) as error:
                if isinstance(error, boto.ClientError):
                    self._reached = True
                tries = self._patience.tries if self._reached else self._patience.first_tries
                if attempt >= tries or not _passing(error):
                    raise self._translated(verb, key, error, attempt, end) from error
                longest = min(self._patience.pause * 2 ** (attempt - 1), self._patience.longest_pause)
                time.sleep(random.uniform(0, longest))
            else:
                self._reached = True
                return answer
        raise AssertionError("the last try returns or raises")

    def _translated(
        self, verb: str, key: str, error: boto.ClientError | boto.BotoCoreError, attempt: int, end: int
    ) -> Exception:
        if isinstance(error, boto.ClientError):
            return self._refused(verb, key, error, attempt, end)
        if isinstance(
            error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError
        ):
            return CredentialsMissing(
                f"no credentials for {self._place}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
                " or a profile in ~/.aws"
            )
        if isinstance(error, boto.SSLError) and not _passing(error):
            return StoreUnavailable(
                f"the TLS certificate of {self._place} is not trusted; set repository.ca_file to its CA"
            )
        if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError):
            return StoreUnavailable(
                f"cannot reach {self._place}: {_kind(error)} ({verb} {key}, {attempt} tries)"
            )
        return StoreError(f"{verb} {key} failed in {self._place}: {type(error).__name__}")

    def _refused(self, verb: str, key: str, error: boto.ClientError, attempt: int, end: int) -> Exception:
        code, status, text = _code(error), _status(error), error.response["Error"].get("Message", "")
        said = f"{status} {code}".strip()
        if code == "NoSuchBucket":
            return BucketMissing(f"{self._place} does not exist; create it, or correct repository.url")
        if code == "NoSuchKey" or (status == 404 and verb != "list"):
            return ObjectMissing(key)
        if code == "PreconditionFailed" or status == 412:
            return ObjectExists(key)
        if code == "InvalidRange" or status == 416:
            return ObjectTruncated(key, end)
        if code == "RequestTimeTooSkewed":
            return ClockWrong(f"{self._place} says that this machine's clock is wrong; set the time")
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return AccessDenied(f"{self._place} does not accept the credentials ({code}); check them")
        if code in (
            "PermanentRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ):
            return StoreError(f"{self._place} is in another region ({said}); set repository.region")
        if code.endswith(("StorageFull", "QuotaExceeded")) or status == 507:
            return StoreFull(f"{self._place} has no space left ({said}); nothing was written to {key}")
        if status in (401, 403):
            return AccessDenied(f"{self._place} denies {verb} {key} ({said}); allow it for these credentials")
        if verb == "put" and (status == 501 or (status == 400 and not _passing(error))):
            return ConditionalPutRefused(
                f"{self._place} refuses a PUT with If-None-Match ({said}): it cannot keep objects from being"
                " overwritten; use another store"
            )
        if _passing(error):
            hint = "" if code else "; if that is no S3 server, correct repository.endpoint_url"
            return StoreUnavailable(
                f"{self._place} keeps failing at {verb} {key} ({said}), {attempt} tries{hint}"
            )
        return StoreError(f"{self._place} refuses {verb} {key} ({said}): {text}")


class _Body:
    """A buffer as the file that botocore wants, without a copy: `read` gives out views of it."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        self._position = 0
        self.size = self._view.nbytes

    def read(self, size: int = -1) -> memoryview:
        """At least `_CHUNK` bytes while there are so many: the 16 KiB that urllib3 asks for are slow."""
        length = self.size if size < 0 else max(size, _CHUNK)
        piece = self._view[self._position : self._position + length]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position


def _without_expect(params: dict[str, Any], **_: Any) -> None:
    """Drops `Expect: 100-continue`: a round trip a PUT, and a second where a store does not know it."""
    params["headers"].pop("Expect", None)


def _passing(error: boto.ClientError | boto.BotoCoreError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, boto.ClientError):
        return _code(error) in _TRY_AGAIN or _status(error) in _TRY_AGAIN_STATUS
    if isinstance(error, boto.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError)


def _code(error: boto.ClientError) -> str:
    """S3's name for what is wrong; empty when there is none (the answer to HEAD, or no S3 at all)."""
    code = str(error.response["Error"].get("Code", ""))
    return "" if code.isdigit() else code


def _status(error: boto.ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def _kind(error: boto.BotoCoreError) -> str:
    """The deepest reason in a few words; the whole text would repeat every URL."""
    if isinstance(error, boto.ReadTimeoutError | boto.ConnectTimeoutError):
        return "timed out"
    why = type(error).__name__
    cause: object = error.kwargs.get("error") or error
    while isinstance(cause, BaseException):
        if isinstance(cause, OSError) and cause.strerror:
            why = cause.strerror.lower()
        cause = getattr(cause, "reason", None) or cause.__cause__ or cause.__context__
    return why


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
