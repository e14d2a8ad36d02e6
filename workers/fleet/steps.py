"""Control steps: published as messages, claimed with a lease, published again until someone finishes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from workers.fleet.keys import KEYS, plain
from workers.fleet.scripts import Scripts, request_id, text
from workers.messages import Step


class Steps:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def due_steps(self, limit: int = 64) -> list[Step]:
        """Steps to publish now: new ones, and those whose lease or whose last publication is too old. Each
        is marked, so that no dispatcher publishes it again within `Timing.step_republish`."""
        return [Step(*text(step).rsplit("/", 2)) for step in self._scripts.call("due_steps", limit)]

    def claim_step(self, step: Step, owner: str) -> int | None:
        """A fence, good for one try at the step; None when it is done or another's lease is live. No two
        claims of a step have the same, also when Redis forgot the first one."""
        fence = self._scripts.call("claim_step", *_parts(step), owner, request_id())
        return None if fence is None else int(fence)

    @contextmanager
    def holding(self, step: Step, fence: int) -> Iterator[None]:
        """Within it what this thread changes of runs and VMs, and its asking for permits, is refused with
        StepLost once the claim is another's, or forgotten with all that Redis held."""
        with self._scripts.claimed("/".join(_parts(step)), str(fence)):
            yield

    def renew_step(self, step: Step, fence: int) -> bool:
        """Extends the claim by `Timing.step_lease`; False when someone else claimed or finished the step."""
        return bool(self._scripts.call("renew_step", *_parts(step), fence))

    def finish_step(self, step: Step, fence: int) -> bool:
        """Removes the step; False when it was no longer the caller's."""
        return bool(self._scripts.call("finish_step", *_parts(step), fence))

    def put_off_step(self, step: Step, fence: int, seconds: float) -> bool:
        """Gives the claim back; the step is due again after so long, one that waits for a permit as soon as
        it is called or its run is cancelled. False when it was not the caller's."""
        return bool(self._scripts.call("put_off_step", *_parts(step), fence, round(seconds * 1000)))

    def take_permit(self, step: Step, pool: str, places: Mapping[str, int] | None = None) -> bool | None:
        """Asks for a permit at all of `places`: `pool/<pool>`, any of `sr/...`, at most one of `host/...`;
        each with how many steps may be there at once.

        True: the step has it, until it is finished or its lease has run out. False: it waits; put it off, and
        it is due when it has its permit, with `Timing.permit_wait` to ask again. First come, first served:
        nobody overtakes at a storage. Without `places` those of the last time are meant; None: they are not
        known.
        """
        if places is not None and f"pool/{pool}" not in places:
            raise ValueError(f"no limit for pool {pool}")
        named = "" if places is None else json.dumps(sorted(places.items()))
        answer = int(self._scripts.call("take_permit", *_parts(step), pool, named))
        return None if answer < 0 else bool(answer)

    def step_attempts(self, step: Step) -> int:
        """How often the step was claimed; 0 when it is done or not claimed yet."""
        return int(self._scripts.command("HGET", KEYS["step"] + "/".join(_parts(step)), "claims") or 0)


def _parts(step: Step) -> tuple[str, str, str]:
    return step.run, plain("step", step.name), plain("subject", step.subject, empty=True)
