"""A run's result in words: what was done, why, how fast, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from scheduler.terminal.tables import duration, size


@dataclass(frozen=True)
class Message:
    subject: str
    text: str
    problem: bool
    """Somebody should look: the run failed or was not begun, or something besides it went wrong. That
    somebody cancelled it is none."""
    result: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """What a webhook gets; `text` is where chat services look for what to show."""
        return {
            "text": f"{self.subject}\n{self.text}",
            "subject": self.subject,
            "problem": self.problem,
            "result": dict(self.result),
        }


def compose(result: Mapping[str, Any], troubles: Sequence[str] = (), forgotten: int = 0) -> Message:
    """`result` as `runs/<run>/result` has it; `troubles` are lines about what failed after the run had
    ended, `forgotten` how many restore points its policy let go."""
    remarks = [*result.get("warnings", ()), *troubles]
    wrong = [*([result["error"]] if result.get("error") else []), *_failed(result), *remarks]
    lines = [*_head(result)]
    if wrong:
        lines += ["", "What went wrong:", *(f"- {line}" for line in wrong)]
    for vm, rows in groupby(result["disks"], key=lambda row: row["vm"]):
        done = [_disk(row) for row in rows if row.get("vdi")]
        if done:
            lines += ["", f"VM {vm}:", *(f"- {line}" for line in done)]
    if forgotten:
        lines += ["", f"Restore points forgotten by the policy's keep: {forgotten}."]
    return Message(
        subject=_subject(result, bool(remarks)),
        text="\n".join(lines) + "\n",
        problem=bool(remarks) or result["status"] not in ("succeeded", "cancelled"),
        result=result,
    )


def _subject(result: Mapping[str, Any], remarks: bool) -> str:
    what = f"policy {result['policy']}" if result.get("policy") else "backup"
    failed = sum(bool(row.get("error")) for row in result["disks"])
    status = str(result["status"])
    if status == "partial":
        status += f", {failed} of {sum(not _is_skipped(row) for row in result['disks'])} failed"
    elif status == "succeeded" and remarks:
        status += ", with remarks"
    return " ".join(f"cbtfleet: {what} on pool {result.get('pool')}: {status}".split())


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    policy = f" of policy {result['policy']}" if result.get("policy") else ""
    yield f"Run {result['run']}{policy} on pool {result.get('pool')}: {result['status']}."
    started, ended = result.get("started"), result.get("ended")
    if started and ended:
        took = duration(max(0.0, (_time(ended) - _time(started)).total_seconds()))
        yield f"Started {started}, ended {ended}, after {took}."
    if result.get("slot") and started:
        late = (_time(started) - _time(result["slot"])).total_seconds()
        if late >= 120:
            yield f"It was due at {result['slot']} and began {duration(late)} late."
    rows = [row for row in result["disks"] if not _is_skipped(row)]
    if rows:
        read, stored = (sum(row.get(key) or 0 for row in rows) for key in ("read_bytes", "stored_bytes"))
        disks = "1 disk" if len(rows) == 1 else f"{len(rows)} disks"
        yield f"{disks}, {size(read)} read, {size(stored)} stored."


def _failed(result: Mapping[str, Any]) -> Iterator[str]:
    for row in result["disks"]:
        if row.get("error"):
            vm = f'VM "{row["vm"]}"'
            yield row["error"] if vm in row["error"] else f"{vm}, disk {_name(row)}: {row['error']}"


def _disk(row: Mapping[str, Any]) -> str:
    if row.get("error"):
        return f"{_name(row)}: failed, see above"
    if _is_skipped(row):
        return f"{_name(row)}: {row['reason']}"
    why = f", because {row['reason']}" if row.get("reason") else ""
    line = f"{_name(row)}: {row['mode']}{why}; {size(row['changed_bytes'])} changed"
    line += f", {size(row['stored_bytes'])} stored in {duration(row['seconds'])}"
    if row.get("bytes_per_second"):
        line += f" ({size(row['bytes_per_second'])}/s)"
    return f"{line}, restore point {row['point']}"


def _is_skipped(row: Mapping[str, Any]) -> bool:
    return row.get("mode") is None and not row.get("error")


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("name") or row.get("vdi"))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
