"""`cbtfleet init`: creates the repository and its keys."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption
from scheduler.terminal.passphrase import new_passphrase
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.repository import Created, create_repository, open_store
from workers.settings import Settings


def init(
    context: typer.Context,
    unencrypted: Annotated[
        bool, typer.Option("--unencrypted", help="Store everything readable by whoever reads the store.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create the repository and its key files; print the recovery key once."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings().repository
    with closing(open_store(settings)) as store:
        passphrase = None if unencrypted else new_passphrase(settings)
        created = create_repository(store, settings, encrypted=not unencrypted, passphrase=passphrase)
    _found_ledger(invocation.settings())
    files = [str(path) for path in created.files]
    invocation.answer(
        {"repository": created.repository_id, "recovery_key": created.recovery_key, "files": files},
        lambda console: _show(console, settings.url, created),
    )


def _found_ledger(settings: Settings) -> None:
    """A new repository's fleet has no connections yet: an empty Redis has forgotten none (docs/adr/0065)."""
    # Init needs no Redis, and must print the recovery key whatever Redis does: the doctor looks at Redis.
    with suppress(CbtfleetError), closing(Ledger.open(settings)) as ledger:
        ledger.found()


def _show(console: Console, url: str, created: Created) -> None:
    console.print(f"Created repository {created.repository_id} in {url}.")
    for path in created.files:
        console.print(f"  wrote {path}")
    if created.recovery_key is None:
        console.print("It is NOT encrypted: whoever can read the store can read every backed-up disk.")
    else:
        console.print("\nThe recovery key, printed this once:\n")
        console.print(f"    {created.recovery_key}\n", markup=False)
        console.print(
            "Write it down and keep it away from these machines. With it, `cbtfleet recover-key` makes\n"
            "the private key again when its file or its passphrase is lost; whoever has it can read every\n"
            "backup. Workers need the public key file only: keep the private key file off them."
        )
    console.print("\nNext: cbtfleet doctor")
