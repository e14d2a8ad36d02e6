"""`cbtfleet demo`: see all of it work, without a pool, a Redis or a bucket."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end, note
from scheduler.demo.stage import open_stage
from scheduler.demo.story import tell
from scheduler.demo.summary import as_json as summary
from scheduler.demo.summary import show, show_how_to_play, show_next_steps
from workers.errors import ConfigurationError

DISK_SIZE = "64MiB"


def demo(
    context: typer.Context,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running to play with, until Ctrl-C.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up and restore a simulated pool, and check every byte, in a minute."""
    invocation = Invocation.of(context, config, as_json)
    check_parts()
    folder = Path(tempfile.mkdtemp(prefix="cbtfleet-demo-"))
    unhurt = False
    try:
        with _sigterm_as_interrupt(), open_stage(folder, DISK_SIZE) as stage:
            told = tell(stage, note)
            unhurt = not told.faults()
            invocation.answer(summary(told, stage), lambda console: show(console, told, stage))
            if keep:
                show_how_to_play(
                    Console(stderr=invocation.as_json, highlight=False, soft_wrap=True), folder, stage
                )
                _until_interrupted()
            elif not invocation.as_json:
                show_next_steps(Console(highlight=False))
    except KeyboardInterrupt:
        unhurt = True
        raise
    finally:
        if unhurt:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            note(f"cbtfleet: the demo's folder, with the logs, is kept: {folder}")
    if not unhurt:
        end(FAILED)


def check_parts() -> None:
    """Raises ConfigurationError when an embedded part is not installed."""
    missing = [name for name in ("moto", "flask") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the demo's S3 server is not installed ({', '.join(missing)}): pip install 'cbtfleet[embedded]'"
        )


def _until_interrupted() -> None:
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        note("Stopping everything.")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """So that everything is stopped and removed then, too."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
