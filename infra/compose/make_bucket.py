"""Creates the bucket of the S3 server in docker-compose.yml, when it is not there.

A store elsewhere is left alone: its bucket, with its lifecycle and its permissions, is made by a person.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import boto3
from botocore.config import Config

OUR_SERVER = "http://s3:7070"


def make_bucket(configuration: Path, endpoint: str = OUR_SERVER) -> None:
    repository = tomllib.loads(configuration.read_text())["repository"]
    if repository.get("endpoint_url") != endpoint:
        return
    bucket = repository["url"].removeprefix("s3://").split("/")[0]
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
    if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
        print(f"created bucket {bucket}")
    client.close()


if __name__ == "__main__":
    make_bucket(Path(os.environ["CBTFLEET_CONFIG"]))
