"""`cbtfleet`: the command line's entry, and the one place where failures become lines and exit codes.

Exit codes: 0 done; 1 something failed, and was said; 2 wrong usage or configuration; 3 cancelled; 4 this
machine computes wrongly.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from scheduler.commands import (
    backup,
    cleanup,
    demo,
    doctor,
    forget,
    init,
    points,
    recover_key,
    repair_config,
    restore,
    resume,
    runs,
    services,
    slots,
    status,
    verify,
    version,
)
from scheduler.commands.invocation import CANCELLED, FAILED, ConfigOption, Invocation, JsonOption
from workers.errors import CbtfleetError, ConfigurationError
from workers.logs import start_logging

USAGE = ConfigurationError.exit_code
_INTERRUPTED = 130
"""What typer makes of a KeyboardInterrupt."""

# typer brings its own copy of click in some versions and uses click's in others: its public BadParameter
# leads to the class of all usage errors in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="cbtfleet",
    help="Changed-block backups of XenServer / XCP-ng disks to S3.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, which may be secrets
    add_completion=False,
    context_settings={"max_content_width": 110},
    rich_markup_mode=None,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "init": init.init,
    "doctor": doctor.doctor,
    "backup": backup.backup,
    "worker": services.worker,
    "scheduler": services.scheduler,
    "up": services.up,
    "status": status.status,
    "runs": runs.runs,
    "cancel": runs.cancel,
    "resume": resume.resume,
    "slots": slots.slots,
    "points": points.points,
    "forget": forget.forget,
    "cleanup": cleanup.cleanup,
    "restore": restore.restore,
    "verify": verify.verify,
    "demo": demo.demo,
    "recover-key": recover_key.recover_key,
    "repair-config": repair_config.repair_config_command,
    "version": version.version,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


@app.callback()
def _before_the_command(
    context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    context.obj = Invocation(config, as_json)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; every failure has been said."""
    as_json = "--json" in arguments
    try:
        code = app(args=list(arguments), prog_name="cbtfleet", standalone_mode=False)
        if code == _INTERRUPTED:
            return _say("interrupted", CANCELLED, as_json)
        return code if isinstance(code, int) else 0
    except CbtfleetError as error:
        return _say(str(error), error.exit_code, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", CANCELLED, as_json)
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:  # noqa: BLE001 the outermost edge: a person gets a line, never a traceback
        return _usage(error, as_json) if isinstance(error, _UsageError) else _unexpected(error, as_json)


def _usage(error: Exception, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    text = str(getattr(error, "message", "")) or str(error)
    if callable(format_message := getattr(error, "format_message", None)):
        text = str(format_message())
    if not text or type(error).__name__ == "NoArgsIsHelpError":
        print(text, file=sys.stderr)
        return USAGE
    where = f'; see "{context.command_path} --help"' if context is not None else ""
    return _say(" ".join(text.split()).rstrip(".") + where, USAGE, as_json)


def _unexpected(error: Exception, as_json: bool) -> int:
    if os.environ.get("CBTFLEET_DEBUG"):
        traceback.print_exception(error)
    return _say(
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
        " (a fault of cbtfleet's own; CBTFLEET_DEBUG=1 prints the traceback)",
        FAILED,
        as_json,
    )


def _say(line: str, code: int, as_json: bool) -> int:
    print(f"cbtfleet: {line}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": line}, ensure_ascii=False), flush=True)
    return code


def main() -> None:
    """The entry point of the `cbtfleet` script."""
    start_logging(logging.WARNING)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
