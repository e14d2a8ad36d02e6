"""The four roles at a Ceph store: users, and the documents of infra/store-policies as the bucket's policy."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROLES = ("worker", "scheduler", "prune", "restore")
CONFIGURATION = "TEST_CEPH_CONF"
DOCUMENTS = Path(__file__).parents[1] / "infra" / "store-policies"


def ceph_is_ours() -> bool:
    """Whether this process runs below `tests/ceph-radosgw.sh` and so may make users."""
    return CONFIGURATION in os.environ


def bucket_policy(bucket: str, prefix: str) -> str:
    """The four documents for Ceph as one, in the way in which their README says."""
    statements = []
    for role in ROLES:
        text = (DOCUMENTS / "ceph" / f"{role}.json").read_text()
        text = text.replace("BUCKET", bucket).replace("PREFIX", prefix)
        statements += json.loads(text)["Statement"]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@dataclass(frozen=True)
class Role:
    """A user of the store, with the keys of this test."""

    name: str
    key_id: str
    secret: str

    @classmethod
    def create(cls, name: str) -> Role:
        role = cls(name, secrets.token_hex(8), secrets.token_hex(16))
        keys = (f"--access-key={role.key_id}", f"--secret-key={role.secret}")
        _admin("create", f"--uid=cbtfleet-{name}", f"--display-name={name}", "--max-buckets=-1", *keys)
        return role

    def remove(self) -> None:
        _admin("rm", f"--uid=cbtfleet-{self.name}")

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}

    def client(self, endpoint: str) -> S3Client:
        return client(endpoint, self.key_id, self.secret)


def client(endpoint: str, key_id: str | None = None, secret: str | None = None) -> S3Client:
    """Without keys: those of the environment, which are the bucket's owner's."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def refusal(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def _admin(*arguments: str) -> None:
    command = ["radosgw-admin", "-c", os.environ[CONFIGURATION], "-n", "client.rgw", "user", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
