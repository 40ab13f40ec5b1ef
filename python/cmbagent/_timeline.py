"""What happened in a run, put in order from its records."""

from __future__ import annotations

from typing import Any

from cmbagent.store import Store

_NO_PHASE = 2**32 - 1


def timeline(store: Store, run_id: str) -> dict[str, Any]:
    """Say what happened in a run.

    Args:
        store: where the run is kept.
        run_id: its whole id.

    Returns:
        `lives` (dicts of `began`, `ended`, `status`, `seconds`: how often it was begun or resumed), `phases`
        (dicts of `index`, `type`, `name`, `status`, `seconds`, `usage`, `error`, `restored` (how often it was
        taken up as it was) and `entries`: steps, calls, scripts, answers and warnings in order, each a dict
        with `what` and `at`), `unfinished` (calls, scripts and questions that have no result), `questions`
        (that nobody has answered), `files` (paths, in order), and `error` (why it failed, or `None`).

    Raises:
        JournalError: the records cannot be read.
    """
    told = _Timeline()
    for record in store.records(run_id):
        told.take(record)
    waiting = [each for each in store.questions(run_id) if not each["settled"] and each["answer"] is None]
    return {
        "lives": told.lives,
        "phases": [told.phases[index] for index in sorted(told.phases)],
        "unfinished": list(told.unfinished.values()),
        "questions": waiting,
        "files": list(told.files),
        "error": told.error,
    }


class _Timeline:
    def __init__(self) -> None:
        self.lives: list[dict[str, Any]] = []
        self.phases: dict[int, dict[str, Any]] = {}
        self.unfinished: dict[tuple[int, ...], dict[str, Any]] = {}
        self.files: dict[str, None] = {}
        self.error: str | None = None
        self._types: list[str] = []
        self._steps: dict[tuple[int, int], dict[str, Any]] = {}

    def take(self, record: dict[str, Any]) -> None:
        entry, place, at = record["entry"], record["position"], record["at"]
        kind = entry["entry"]
        if kind == "event":
            note = getattr(self, f"_on_{entry['kind']}", None)
            if note is not None:
                note(place, at, entry["data"])
        elif kind == "started" and entry["effect"] != "observe":
            about = entry.get("about") or {}
            self.unfinished[_key(place)] = {
                "what": {"execute": "script", "ask": "question"}.get(entry["effect"], "call"),
                "at": at, "phase": place["phase"], "step": place["step"],
                "agent": about.get("agent"), "model": about.get("model"), "cost_at_most": about.get("bound"),
            }  # fmt: skip
        elif kind in ("finished", "failed"):
            self.unfinished.pop(_key(place), None)
        elif kind == "rewound":
            # What was cut short there is done anew.
            self.unfinished = {k: v for k, v in self.unfinished.items() if k < _key(entry["to"])}

    def _on_run_started(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._types = list(data.get("phases") or [])
        self.lives.append({"began": at, "ended": None, "status": None, "seconds": None})
        self.error = None

    _on_run_resumed = _on_run_started

    def _on_run_finished(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        if self.lives:
            self.lives[-1].update(ended=at, status=data.get("status"), seconds=data.get("seconds"))
        self.error = data.get("error")

    def _phase(self, place: dict[str, int]) -> dict[str, Any]:
        index = place["phase"]
        kind = self._types[index] if index < len(self._types) else ""
        return self.phases.setdefault(index, {
            "index": index, "type": kind, "name": kind, "status": "running", "seconds": None,
            "usage": None, "error": None, "restored": 0, "entries": [],
        })  # fmt: skip

    def _note(self, place: dict[str, int], at: float, what: str, **about: Any) -> dict[str, Any]:
        entry = {"what": what, "at": at, "step": place["step"], **about}
        if place["phase"] != _NO_PHASE:
            self._phase(place)["entries"].append(entry)
        return entry

    def _on_phase_started(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._phase(place).update(name=data.get("display_name"), status="running", error=None)

    def _on_phase_restored(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._phase(place)["restored"] += 1

    def _on_phase_skipped(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._phase(place).update(name=data.get("display_name"), status="skipped")

    def _on_phase_finished(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._phase(place).update({name: data.get(name) for name in ("status", "seconds", "usage", "error")})

    def _on_step_started(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        about = {name: data.get(name) for name in ("number", "total", "sub_task", "step_agent")}
        ended = {"status": "running", "seconds": None, "error": None, "usage": None}
        self._steps[place["phase"], place["step"]] = self._note(place, at, "step", **about, **ended)

    def _on_step_finished(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        step = self._steps.get((place["phase"], place["step"]))
        if step is not None:
            step.update({name: data.get(name) for name in ("status", "seconds", "error", "usage")})
        self._made(data.get("files"))

    def _on_call_finished(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        about = {name: data.get(name) for name in ("agent", "model", "seconds", "usage")}
        self._note(place, at, "call", **about)

    def _on_script_finished(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        about = {name: data.get(name) for name in ("file", "success", "exit", "seconds", "log_path")}
        self._note(place, at, "script", **about)
        self._made(data.get("files"))

    def _on_file_written(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._made([data.get("path")])

    def _on_approval_received(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._note(place, at, "answer", resolution=data.get("resolution"), feedback=data.get("user_feedback"))

    def _on_effect_repeated(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._note(place, at, "repeated", effect=data.get("effect"), changed=data.get("changed"))

    def _on_warning(self, place: dict[str, int], at: float, data: dict[str, Any]) -> None:
        self._note(place, at, "warning", message=data.get("message"))

    def _made(self, paths: Any) -> None:
        self.files.update({str(path): None for path in paths or [] if path})


def _key(place: dict[str, int]) -> tuple[int, ...]:
    names = ("attempt", "phase", "phase_try", "nested", "step", "turn", "call")
    return tuple(place[name] for name in names)
