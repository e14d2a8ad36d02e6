"""A run's result in words: what was done, why, how fast, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from scheduler.runs.values import ResultRow, RunResult
from scheduler.terminal.tables import duration, size


@dataclass(frozen=True)
class Message:
    subject: str
    text: str
    problem: bool
    """Somebody should look: the run failed or was not begun, or something besides it went wrong. That
    somebody cancelled it is none."""
    result: RunResult

    @property
    def document(self) -> Mapping[str, object]:
        """What a webhook gets; `text` is where chat services look for what to show."""
        return {
            "text": f"{self.subject}\n{self.text}",
            "subject": self.subject,
            "problem": self.problem,
            "result": self.result.members(),
        }


def compose(result: RunResult, troubles: Sequence[str] = (), forgotten: int = 0) -> Message:
    """`troubles` are lines about what failed after the run had ended, `forgotten` how many restore points its
    policy let go."""
    remarks = [*result.warnings, *troubles]
    wrong = [*([result.error] if result.error else []), *_failed(result), *remarks]
    lines = [*_head(result)]
    if wrong:
        lines += ["", "What went wrong:", *(f"- {line}" for line in wrong)]
    for vm, rows in groupby(result.disks, key=lambda row: row.vm):
        done = [_disk(row) for row in rows if row.vdi]
        if done:
            lines += ["", f"VM {vm}:", *(f"- {line}" for line in done)]
    if forgotten:
        lines += ["", f"Restore points forgotten by the policy's keep: {forgotten}."]
    return Message(
        subject=_subject(result, bool(remarks)),
        text="\n".join(lines) + "\n",
        problem=bool(remarks) or result.status not in ("succeeded", "cancelled"),
        result=result,
    )


def _subject(result: RunResult, remarks: bool) -> str:
    what = f"policy {result.policy}" if result.policy else "backup"
    status = str(result.status)
    if status == "partial":
        failed = sum(bool(row.error) for row in result.disks)
        status += f", {failed} of {sum(not row.is_skipped for row in result.disks)} failed"
    elif status == "succeeded" and remarks:
        status += ", with remarks"
    return " ".join(f"cbtfleet: {what}{_on_pool(result)}: {status}".split())


def _head(result: RunResult) -> Iterator[str]:
    policy = f" of policy {result.policy}" if result.policy else ""
    yield f"Run {result.run}{policy}{_on_pool(result)}: {result.status}."
    took = duration(max(0.0, (_time(result.ended) - _time(result.started)).total_seconds()))
    yield f"Started {result.started}, ended {result.ended}, after {took}."
    if result.slot:
        late = (_time(result.started) - _time(result.slot)).total_seconds()
        if late >= 120:
            yield f"It was due at {result.slot} and began {duration(late)} late."
    rows = [row for row in result.disks if not row.is_skipped]
    if rows:
        read, stored = sum(row.read_bytes for row in rows), sum(row.stored_bytes for row in rows)
        disks = "1 disk" if len(rows) == 1 else f"{len(rows)} disks"
        yield f"{disks}, {size(read)} read, {size(stored)} stored."


def _on_pool(result: RunResult) -> str:
    return f" on pool {result.pool}" if result.pool else ""


def _failed(result: RunResult) -> Iterator[str]:
    for row in result.disks:
        if row.error:
            vm = f'VM "{row.vm}"'
            yield row.error if vm in row.error else f"{vm}, disk {_name(row)}: {row.error}"


def _disk(row: ResultRow) -> str:
    if row.error:
        return f"{_name(row)}: failed, see above"
    if row.is_skipped:
        return f"{_name(row)}: {row.reason}"
    why = f", because {row.reason}" if row.reason else ""
    line = f"{_name(row)}: {row.mode}{why}; {size(row.changed_bytes)} changed"
    line += f", {size(row.stored_bytes)} stored in {duration(row.seconds)}"
    if row.bytes_per_second:
        line += f" ({size(row.bytes_per_second)}/s)"
    return f"{line}, restore point {row.point}"


def _name(row: ResultRow) -> str:
    return str(row.name or row.vdi)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
