"""`cbtfleet repair-config`: puts the repository's `config` back, from the key files."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption
from scheduler.terminal.passphrase import ask_passphrase
from workers.errors import ConfigurationError
from workers.repository import (
    ConfigUntrue,
    MetadataKeys,
    Store,
    load_metadata_keys,
    load_private_keys,
    open_store,
    repair_config,
)
from workers.settings import RepositorySettings


def repair_config_command(
    context: typer.Context,
    empty: Annotated[
        bool, typer.Option("--empty", help="The repository has no run yet, so nothing in it can prove it.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the repository's `config` object back when it was lost or changed. Needs a key file."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings().repository
    with closing(open_store(settings)) as store:
        keys = _keys(store, settings)
        repaired = repair_config(store, keys, empty=empty)
    said = f"Put config of repository {keys.repository} back." if repaired else "config is as it should be."
    invocation.answer(
        {"repository": keys.repository, "repaired": repaired},
        lambda console: console.print(said, markup=False),
    )


def _keys(store: Store, settings: RepositorySettings) -> MetadataKeys:
    if settings.metadata_key_file is not None:
        return load_metadata_keys(store, settings, tell=_expected)
    if settings.private_key_file is not None:
        return load_private_keys(store, settings, ask_passphrase, tell=_expected).metadata
    raise ConfigurationError(
        "repository.metadata_key_file and private_key_file are missing: `config` is made from one of them;"
        " without key files, `config` alone has what an unencrypted repository is read with"
    )


def _expected(error: ConfigUntrue) -> None:
    """That `config` is wrong is why we are here."""
