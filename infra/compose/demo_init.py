"""Sets up the demo of docker-compose.yml: a configuration for the simulated pool, a bucket, a repository.

Run again it finds all that in place: only the pool's address changes when the simulator is started anew.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path

from make_bucket import CREDENTIALS, OUR_SERVER, POLICIES, make_bucket

CONFIGURATION = """\
[redis]
url = "{redis}"
{redis_password}

[repository]
url = "s3://demo"
endpoint_url = "{endpoint}"
public_key_file = "public.key"
metadata_key_file = "metadata.key"
private_key_file = "private.key"
passphrase_file = "passphrase"

[pools.demo]
url = "{url}"
username = "{username}"
password_file = "{password_file}"
ca_file = "{ca_file}"
"""


def set_up(
    folder: Path,
    redis: str = "redis://redis:6379/1",
    endpoint: str = OUR_SERVER,
    redis_password: Path | None = Path("/run/secrets/redis_password"),
    credentials: Path = CREDENTIALS,
    policies: Path = POLICIES,
) -> Path:
    """Reads what the simulator said of itself in `pool.json`; returns the configuration."""
    pool = json.loads((folder / "pool.json").read_text())
    configuration = folder / "cbtfleet.toml"
    configuration.write_text(
        CONFIGURATION.format(
            redis=redis,
            redis_password="" if redis_password is None else f'password_file = "{redis_password}"',
            endpoint=endpoint,
            **pool,
        )
    )
    make_bucket(configuration, endpoint, credentials, policies)
    if not (folder / "private.key").exists():
        passphrase = os.open(folder / "passphrase", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(passphrase, "w") as file:
            file.write(secrets.token_urlsafe(18))
        subprocess.run(["cbtfleet", "init", "--config", str(configuration)], check=True)
    return configuration


if __name__ == "__main__":
    set_up(Path(os.environ["CBTFLEET_CONFIG"]).parent)
