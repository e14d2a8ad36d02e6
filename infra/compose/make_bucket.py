"""Creates the bucket of the S3 server in docker-compose.yml and says who may do what in it.

A store elsewhere is left alone: its bucket, with its lifecycle and its permissions, is made by a person.
"""

from __future__ import annotations

import configparser
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import boto3
from botocore.config import Config

OUR_SERVER = "http://s3:7070"
CREDENTIALS = Path("/run/secrets")
POLICIES = Path("/store-policies/aws")
ROLES = ("scheduler", "worker", "restore")


def make_bucket(
    configuration: Path,
    endpoint: str = OUR_SERVER,
    credentials: Path = CREDENTIALS,
    policies: Path = POLICIES,
) -> None:
    repository = tomllib.loads(configuration.read_text())["repository"]
    if repository.get("endpoint_url") != endpoint:
        return
    bucket, _, prefix = repository["url"].removeprefix("s3://").strip("/").partition("/")
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
    if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
        print(f"created bucket {bucket}")
    key_ids = {role: _key_id(credentials / f"s3_{role}") for role in ROLES}
    client.put_bucket_policy(Bucket=bucket, Policy=bucket_policy(policies, bucket, prefix, key_ids))
    client.close()


def bucket_policy(policies: Path, bucket: str, prefix: str, key_ids: Mapping[str, str]) -> str:
    """The documents for AWS as this server takes them: one for the bucket, users by key id, no conditions."""
    place = f"{bucket}/{prefix}/" if prefix else f"{bucket}/"
    statements = []
    for role, key_id in key_ids.items():
        text = (policies / f"{role}.json").read_text()
        text = text.replace("BUCKET/PREFIX/", place).replace("BUCKET", bucket)
        for statement in json.loads(text)["Statement"]:
            kept = {name: statement[name] for name in ("Effect", "Action", "Resource")}
            statements.append({**kept, "Principal": {"AWS": [key_id]}})
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _key_id(path: Path) -> str:
    found = configparser.ConfigParser()
    found.read_string(path.read_text())
    return found["default"]["aws_access_key_id"]


if __name__ == "__main__":
    make_bucket(Path(os.environ["CBTFLEET_CONFIG"]))
