"""The coordinator's half of the protocol, without I/O: a request and the time go in, the answer comes out.

The caller wraps every batch of calls in ``store.transaction()`` and sends the answers only after it: what a receipt
says is then on the disk. After a failed transaction it makes a new Service, which reads everything back from the
store.
"""

from __future__ import annotations

import logging
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from coordinator import aggregation
from coordinator.authority import Authority, secret_hash
from coordinator.history import RunHistory
from coordinator.round import Event, Phase, Rounds
from coordinator.run_history import AWAY_AFTER_S, history
from coordinator.store import RoundRow, Store, TaskRow
from edge_runtime import _kernels, messages, model
from edge_runtime.errors import DeviceFault, LocalError, RemoteError
from edge_runtime.features import Examples
from edge_runtime.messages import (
    PROTOCOL,
    Contribute,
    Decline,
    Enrol,
    Enrolled,
    Finished,
    GetAuthority,
    GetTask,
    Hello,
    Offer,
    Receipt,
    Refusal,
    Reply,
    Request,
    Wait,
    Welcome,
    encode_task,
)
from edge_runtime.params import Tensor
from edge_runtime.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseSource

log = logging.getLogger("fedge.coordinator")

_RETRY_S = 1.0
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_INTEGER_TENSORS = ("<i1", "<i2", "<i4")


@dataclass(frozen=True)
class Peer:
    """Who is asking, as TLS proved it: ``device`` is None for somebody without a certificate, or with one the
    store no longer pins.
    """

    device: str | None
    name: str = ""
    removed: bool = False


class Service:
    """One task on one store. ``evaluation`` scores every new model; ``rng`` chooses cohorts; ``noise`` makes
    central releases.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority | None,
        *,
        rng: random.Random,
        noise: NoiseSource,
        evaluation: Examples | None,
        now_s: float,
    ) -> None:
        row = store.latest_task()
        if row is None:
            raise LocalError("there is no task to run; start one with: fedge coordinator run --task task.toml")
        self.version = 0  # grows whenever the answer to a waiting device may have changed
        self._store, self._authority = store, authority
        self._rng, self._noise, self._evaluation = rng, noise, evaluation
        self._row: TaskRow = row
        self.task: Task = row.task
        self._params: NDArray[np.float32] = np.frombuffer(row.params, "<f4")
        self._spec = encode_task(row.task)
        size, privacy = row.task.model.parameter_count, row.task.privacy
        self._noised = privacy.noise() if privacy.place != "none" else None
        if self._noised is not None:
            self._largest_release = aggregation.largest_local_release(
                self._noised.levels, self._noised.log2_scale, size
            )
        self._total = np.zeros(size, np.int64)  # of the open round's integers; the store has every one of them too
        self._offer: Offer | None = None
        self._asked_at_s: dict[str, float] = {}
        self._excluded: set[str] = set()  # declined for a reason that the next round will not change
        self._resting: dict[str, tuple[float, float]] = {}  # had no data: since when, and how long it rests
        self._enrolled = self._known_devices()
        rows = store.rounds(row.task_id)
        self._committed = sum(round_row.outcome == "committed" for round_row in rows)
        self.closed = sum(round_row.outcome is not None for round_row in rows)  # rounds, committed or given up
        self._rounds = self._restore(rows, now_s)

    # What comes in

    def handle(self, peer: Peer, request: Request, now_s: float) -> Reply:
        """The answer to ``request``. Never raises for what a peer sends."""
        match request:
            case GetAuthority():
                return self._tell_authority()
            case Enrol():
                return self._enrol(request, now_s)
        if peer.removed or (peer.device is not None and peer.device not in self._enrolled):
            return Refusal(
                "device", "unknown_device", "this device is not in this fleet any more: ask its owner for a new code"
            )
        if peer.device is None:
            return Refusal(
                "device", "not_enrolled", "this device has no certificate of this fleet: join with a code first"
            )
        match request:
            case Hello(protocol):
                return self._greet(peer.device, peer.name, protocol)
            case GetTask():
                return self._task(peer.device, now_s)
            case Contribute():
                return self._contribute(peer.device, request, now_s)
            case Decline():
                return self._decline(peer.device, request, now_s)

    def tick(self, now_s: float) -> None:
        """Do what is due: close or give up the open round, open the next, finish the task."""
        while (event := self._rounds.due(now_s)) is not None:
            self._close(event, now_s)
        if self._rounds.phase is Phase.GATHERING:
            self._gather(now_s)

    def left(self, device: str) -> None:
        """The device has hung up: do not count on it for the next round."""
        self._asked_at_s.pop(device, None)

    def fleet_changed(self, now_s: float) -> None:
        """Somebody else wrote to the store: devices may have been removed, which takes effect at once."""
        rounds, known = self._rounds, self._known_devices()
        gone, self._enrolled = self._enrolled - known, known
        self.version += bool(gone)
        for device in gone:
            self._asked_at_s.pop(device, None)
            if rounds.phase is Phase.COLLECTING and device in rounds.cohort - rounds.contributed - rounds.declined:
                self._store.add_decline(self.task_id, rounds.number, device, "removed", "removed from the fleet", now_s)
                rounds.declined.add(device)

    def wakeup_at_s(self, now_s: float) -> float | None:
        """When :meth:`tick` has to be called at the latest."""
        times = [self._rounds.wakeup_at_s(now_s)]
        if self._rounds.phase is Phase.GATHERING and self._resting:
            ends_s = (since_s + rest_s for since_s, rest_s in self._resting.values())
            times.append(min((end_s for end_s in ends_s if end_s > now_s), default=None))
        return min((time_s for time_s in times if time_s is not None), default=None)

    @property
    def finished_because(self) -> str | None:
        return self._row.finished_because

    @property
    def params(self) -> NDArray[np.float32]:
        """The latest model, (P,) float32."""
        return self._params

    @property
    def task_id(self) -> str:
        return self._row.task_id

    def history(self, now_s: float) -> RunHistory:
        """The picture of the run for a view or a report."""
        connected = {device for device, asked_s in self._asked_at_s.items() if now_s - asked_s < AWAY_AFTER_S}
        rounds = self._rounds
        open_round = (
            (rounds.number, len(rounds.contributed) + len(rounds.declined), len(rounds.cohort))
            if rounds.phase is Phase.COLLECTING
            else None
        )
        state: Literal["gathering", "collecting", "finished"] = "collecting" if open_round else "gathering"
        if rounds.phase is Phase.FINISHED:
            state = "finished"
        return history(self._store, self._row, now_s=now_s, connected=connected, state=state, open_round=open_round)

    # Enrolment

    def _tell_authority(self) -> Reply:
        if self._authority is None:
            return Refusal("coordinator", "closed", "this coordinator enrols nobody")
        return messages.Authority(self._authority.certificate)

    def _enrol(self, request: Enrol, now_s: float) -> Reply:
        if self._authority is None:
            return Refusal("coordinator", "closed", "this coordinator enrols nobody")
        key = secret_hash(request.secret)
        invitation = self._store.invitation(key)
        if invitation is None:
            return Refusal(
                "device", "bad_code", "the join code is not one of this coordinator's: ask its owner for one"
            )
        try:
            device, public_key, certificate = self._authority.issue(request.request)
        except RemoteError as fault:
            return Refusal("device", "bad_request", str(fault))
        expires_at_s, used_by = invitation
        known = self._store.device(device)
        if known is not None and known.revoked:
            return Refusal(
                "device", "removed", "this device's key was removed from the fleet: join with a new --home folder"
            )
        if used_by is not None:
            if (
                used_by == device and known is not None
            ):  # the answer was lost on the way: the same key gets the same answer
                return Enrolled(device, known.certificate)
            return Refusal(
                "device", "used_code", "the join code was used by another device: ask the owner for a fresh one"
            )
        if now_s > expires_at_s:
            return Refusal(
                "device", "expired_code", "the join code has expired: ask the coordinator's owner for a fresh one"
            )
        if known is None:
            self._store.add_device(
                device, messages.printable(request.name).strip() or device, public_key, certificate, now_s
            )
            self._enrolled.add(device)
        self._store.use_invitation(key, device)
        return Enrolled(device, known.certificate if known else certificate)

    def _greet(self, device: str, name: str, protocol: int) -> Reply:
        if protocol != PROTOCOL:
            text = f"the device speaks protocol {protocol}, this coordinator {PROTOCOL}: upgrade the older one"
            return Refusal("device" if protocol < PROTOCOL else "coordinator", "protocol", text)
        self._excluded.discard(device)  # it may have been restarted with another policy or budget
        return Welcome(device, name)

    # Rounds

    def _task(self, device: str, now_s: float) -> Reply:
        self._asked_at_s[device] = now_s
        rounds = self._rounds
        if self._row.finished_because is not None:
            return Finished(self._row.task_id, self._row.finished_because)
        answered = device in rounds.contributed or device in rounds.declined
        if rounds.phase is Phase.COLLECTING and device in rounds.cohort and not answered:
            if self._offer is None:  # one object a round: the server encodes it once
                params = Tensor.of(self._params)
                self._offer = Offer(self._row.task_id, rounds.number, len(rounds.cohort), self._spec, params)
            return self._offer
        return Wait(_RETRY_S)

    def _contribute(self, device: str, request: Contribute, now_s: float) -> Reply:
        self._asked_at_s[device] = now_s
        recorded = self._store.contribution(request.task_id, request.round, device)
        if recorded is not None:
            if recorded == request.release_id:
                return Receipt(request.release_id, "accepted")
            return Refusal(
                "device", "already_contributed", f"{device} has contributed to round {request.round} already"
            )
        if request.task_id != self._row.task_id:
            return Receipt(request.release_id, "late")
        rounds = self._rounds
        if request.round > rounds.number:
            return Refusal(
                "device", "unknown_round", f"round {request.round} is not open, round {rounds.number} is the latest"
            )
        if rounds.phase is not Phase.COLLECTING or request.round < rounds.number:
            return Receipt(request.release_id, "late")
        if device not in rounds.cohort:
            return Refusal("device", "not_asked", f"{device} was not asked to take part in round {request.round}")
        fault, integers = self._examine(request)
        if fault is not None:
            self._store.add_decline(request.task_id, request.round, device, "task", f"refused: {fault}", now_s)
            rounds.declined.add(device)
            self._excluded.add(device)  # what is wrong with it costs it budget in every round
            return Refusal("device", "bad_update", fault)
        self._store.add_contribution(
            request.task_id, request.round, device, request.release_id, request.update, request.examples, now_s
        )
        if integers is not None:
            _kernels.accumulate_i32(self._total, integers)
        rounds.contributed.add(device)
        rounds.declined.discard(device)
        self._resting.pop(device, None)
        return Receipt(request.release_id, "accepted")

    def _examine(self, request: Contribute) -> tuple[str | None, NDArray[np.int32] | None]:
        """What is wrong with an update, judged by the task alone; and its integers, where the task asks for those."""
        size, noise = self.task.model.parameter_count, self._noised
        update = request.update
        if update.shape != (size,):
            return f"the update has shape {list(update.shape)}, the model has {size} parameters", None
        if noise is None:
            if update.dtype != "<f4" or request.examples is None:
                return "an update without noise is float32 and carries its number of examples", None
            with np.errstate(over="ignore", invalid="ignore"):
                # If every device's own model is finite, then so is their mean: nobody can spoil the round.
                finite = np.isfinite(self._params + update.array()).all()
            return None if finite else "the update holds NaN, an infinity, or leads to one", None
        if update.dtype not in _INTEGER_TENSORS:
            return f"the update is {update.dtype}, the task's updates are integers on its grid", None
        integers = update.array().astype(np.int32, copy=False)
        norm = _kernels.integer_l1_norm(integers)
        if self.task.privacy.place == "central":
            if norm > noise.levels:
                return f"the update's integer L1 norm is {norm}, above the {noise.levels} levels of the clip norm", None
            return None, integers
        one, most = self._largest_release
        if norm > most or (size and max(int(integers.max()), -int(integers.min())) > one):
            return f"the update is larger than clipping and noise can make it: L1 norm {norm}, most {most}", None
        return None, integers

    def _decline(self, device: str, request: Decline, now_s: float) -> Reply:
        self._asked_at_s[device] = now_s
        rounds = self._rounds
        if request.task_id == self._row.task_id and request.round == rounds.number and device in rounds.cohort:
            if rounds.phase is Phase.COLLECTING and device not in rounds.contributed:
                self._store.add_decline(
                    request.task_id, request.round, device, request.code, messages.printable(request.reason), now_s
                )
                rounds.declined.add(device)
            if request.code in ("budget_spent", "policy", "task"):
                self._excluded.add(device)
            else:  # a sensor that is warming up, a file in the making: ask again, less and less often
                _, rest_s = self._resting.get(device, (0.0, _FIRST_REST_S / 2))
                rest_s = min(2 * rest_s, _LONGEST_REST_S)
                self._resting[device] = (now_s, rest_s)
        return Receipt("", "noted")

    def _gather(self, now_s: float) -> None:
        committed, cohort_spec = self._committed, self.task.cohort
        if committed >= self.task.rounds:
            self._finish(f"all {self.task.rounds} rounds are done", now_s)
            return
        usable = len(self._enrolled - self._excluded)
        if self._excluded and usable < cohort_spec.quorum:
            reasons = self._store.last_declines(self._row.task_id)
            example = next((reasons[device] for device in sorted(self._excluded) if device in reasons), "")
            self._finish(
                f"after {committed} of {self.task.rounds} rounds {usable} devices can still take part, "
                f"{cohort_spec.quorum} are needed ({example})",
                now_s,
            )
            return
        if len(self._asked_at_s) < cohort_spec.quorum:  # spares a pass over the fleet for every request
            return
        there = (
            device
            for device, asked_s in self._asked_at_s.items()
            if now_s - asked_s < AWAY_AFTER_S
            and device in self._enrolled
            and device not in self._excluded
            and not self._rests(device, now_s)
        )
        cohort = self._rounds.choose(there, now_s, self._rng)
        if cohort is not None:
            self._rounds.open(cohort, now_s)
            self._store.open_round(self._row.task_id, self._rounds.number, tuple(sorted(cohort)), now_s)
            self._total[:] = 0
            self._offer = None
            self.version += 1

    def _rests(self, device: str, now_s: float) -> bool:
        since_s, rest_s = self._resting.get(device, (0.0, 0.0))
        return since_s <= now_s < since_s + rest_s  # no longer than meant, even when the clock is set back

    def _close(self, event: Event, now_s: float) -> None:
        rounds = self._rounds
        rounds.step(event, now_s)
        if rounds.phase is Phase.AGGREGATING:
            if self._commit(now_s):
                self._committed += 1
                rounds.step(Event.COMMITTED, now_s)
            else:
                self._store.abandon_round(self._row.task_id, rounds.number, now_s)
                rounds.step(Event.UNUSABLE, now_s)
        else:
            self._store.abandon_round(self._row.task_id, rounds.number, now_s)
        self._offer = None
        self.closed += 1
        self.version += 1

    def _commit(self, now_s: float) -> bool:
        """Whether the round's mean made a new model."""
        try:
            mean = model.without_frozen(self.task.model, self._mean())
        except (ValueError, DeviceFault) as fault:
            log.error("round %d cannot be aggregated and is given up: %s", self._rounds.number, fault)
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            params = self._params + mean
        if not np.isfinite(params).all():
            return False
        self._params = params
        score = model.score(self.task.model, params, self._evaluation) if self._evaluation else None
        self._store.commit_round(
            self._row.task_id,
            self._rounds.number,
            params=params.astype("<f4", copy=False).tobytes(),
            update_l2=float(np.linalg.norm(mean.astype(np.float64))),
            loss=_finite(score.loss) if score else None,
            accuracy=score.accuracy if score else None,
            now_s=now_s,
        )
        return True

    def _mean(self) -> NDArray[np.float32]:
        size, privacy = self.task.model.parameter_count, self.task.privacy
        if privacy.place == "none":
            received = self._store.contributions(self._row.task_id, self._rounds.number)
            return aggregation.weighted_mean(((update.array(), weight or 1) for update, weight in received), size)
        return aggregation.private_mean(self._total, len(self._rounds.contributed), privacy, self._noise)

    def _finish(self, reason: str, now_s: float) -> None:
        self._store.finish_task(self._row.task_id, reason)
        self._row = self._store.latest_task() or self._row
        self._rounds.step(Event.FINISHED, now_s)
        self.version += 1

    def _restore(self, rows: list[RoundRow], now_s: float) -> Rounds:
        """Take up where the store says the last coordinator was."""
        rounds = Rounds(self.task.cohort, number=rows[-1].number if rows else 0, now_s=now_s)
        if self._row.finished_because is not None:
            rounds.step(Event.FINISHED, now_s)
        elif rows and rows[-1].outcome is None:
            number = rows[-1].number
            rounds.resume(
                number,
                rows[-1].cohort,
                self._store.contributors(self._row.task_id, number),
                self._store.decliners(self._row.task_id, number),
                now_s,
            )
            if self._noised is not None:
                self._sum_stored(number)
        return rounds

    def _sum_stored(self, number: int) -> None:
        try:
            for update, _ in self._store.contributions(self._row.task_id, number):
                _kernels.accumulate_i32(self._total, update.array().astype(np.int32, copy=False))
        except ValueError as fault:
            raise DeviceFault(f"the coordinator's store is damaged: an update of round {number}: {fault}") from None

    def _known_devices(self) -> set[str]:
        return {device.device for device in self._store.devices() if not device.revoked}


def start_task(
    store: Store, task: Task, *, params: NDArray[np.float32], now_s: float, task_id: str | None = None
) -> str:
    """Begin ``task`` from ``params`` (P,) and return its id, a fresh one where none is given; the caller holds
    the transaction.
    """
    task_id = task_id or "task-" + secrets.token_hex(6)
    store.add_task(task_id, task, params.astype("<f4").tobytes(), now_s)
    return task_id


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
