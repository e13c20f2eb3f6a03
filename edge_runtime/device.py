"""The device's half of the protocol, without I/O: replies and the time go in, requests come out.

The agent runs it against a coordinator, the simulator against thousands of others on a virtual clock. Its states are
the table ``TRANSITIONS``; docs/protocol.md is drawn from it.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime import __version__, model
from edge_runtime.errors import FedgeError, LocalError, RemoteError
from edge_runtime.features import Examples, examples
from edge_runtime.ledger import BudgetSpent, Ledger
from edge_runtime.messages import (
    PROTOCOL,
    Contribute,
    Decline,
    Finished,
    GetTask,
    Hello,
    Metrics,
    Offer,
    Receipt,
    Refusal,
    Reply,
    Request,
    Wait,
    Welcome,
    decode,
    encode,
)
from edge_runtime.params import Tensor, narrowest_integer
from edge_runtime.policy import Policy
from edge_runtime.privacy.laplace import LaplaceEvent
from edge_runtime.sources import Source

if TYPE_CHECKING:
    from edge_runtime._kernels import NoiseSource


class State(enum.StrEnum):
    GREETING = "greeting"
    READY = "ready"
    RESTING = "resting"
    TRAINING = "training"
    CONTRIBUTING = "contributing"
    DECLINING = "declining"
    DONE = "done"


class Event(enum.StrEnum):
    CONNECTED = "connected"
    WELCOME = "welcome"
    UNACKNOWLEDGED = "unacknowledged release"
    OFFER = "offer"
    WAIT = "wait"
    WOKEN = "woken"
    PREPARED = "release charged"
    DECLINED = "declined"
    RECEIPT = "receipt"
    FINISHED = "finished"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.GREETING, Event.WELCOME): State.READY,
    (State.READY, Event.UNACKNOWLEDGED): State.CONTRIBUTING,
    (State.READY, Event.OFFER): State.TRAINING,
    (State.READY, Event.WAIT): State.RESTING,
    (State.READY, Event.FINISHED): State.DONE,
    (State.RESTING, Event.WOKEN): State.READY,
    (State.TRAINING, Event.PREPARED): State.CONTRIBUTING,
    (State.TRAINING, Event.DECLINED): State.DECLINING,
    (State.CONTRIBUTING, Event.RECEIPT): State.READY,
    (State.DECLINING, Event.RECEIPT): State.READY,
} | {(state, Event.CONNECTED): State.GREETING for state in State if state is not State.DONE}


class IllegalTransition(RemoteError):
    """The peer said something that the state does not allow."""


class Device:
    """One device. ``noise`` makes releases and must be the system generator outside of simulations; ``shuffle`` only
    orders
    examples. ``wait_s`` is how long the coordinator may hold an answer.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        ledger: Ledger,
        source: Source,
        noise: NoiseSource,
        shuffle: np.random.Generator,
        link: str = "tcp",
        wait_s: float = 30.0,
        new_id: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self.state = State.GREETING
        self.finished_because: str | None = None
        self.wakeup_at_s = 0.0
        self._policy, self._ledger, self._source = policy, ledger, source
        self._noise, self._shuffle, self._new_id = noise, shuffle, new_id
        self._link, self._wait_s = link, wait_s
        self._declining: Decline | None = None
        self._examples: tuple[object, Examples] | None = None

    def connected(self) -> None:
        """A new connection stands: greet again, whatever was under way on the last one."""
        self._step(Event.CONNECTED)

    def request(self, now_s: float) -> Request | None:
        """What to send now; None while there is nothing to ask before ``wakeup_at_s``, or at all."""
        if self.state is State.RESTING and now_s >= self.wakeup_at_s:
            self._step(Event.WOKEN)
        if self.state is State.READY and self._ledger.unacknowledged() is not None:
            self._step(Event.UNACKNOWLEDGED)
        match self.state:
            case State.GREETING:
                return Hello(PROTOCOL, f"fedge {__version__}", "serial" if self._link == "serial" else "tcp")
            case State.READY:
                return GetTask(self._wait_s)
            case State.CONTRIBUTING:
                return self._unacknowledged()
            case State.DECLINING:
                return self._declining
            case _:
                return None

    def receive(self, reply: Reply, now_s: float) -> None:
        """Take the answer to the last request. An offer is worked on within this call.

        Raises RemoteError when the coordinator breaks the protocol or refuses this device; DeviceFault when the
        ledger cannot be written, in which case nothing was released.
        """
        match reply:
            case Welcome():
                self._step(Event.WELCOME)
            case Wait(retry_s):
                self._step(Event.WAIT)
                self.wakeup_at_s = now_s + retry_s
            case Finished(_, reason):
                self._step(Event.FINISHED)
                self.finished_because = reason
            case Offer():
                self._step(Event.OFFER)
                self._work(reply, now_s)
            case Receipt(release_id, status):
                if self.state is State.CONTRIBUTING and status != "noted":
                    self._ledger.settle(release_id, status)
                self._declining = None
                self._step(Event.RECEIPT)
            case Refusal(fault, code, reason):
                self._refused(fault, code, reason)
            case _:
                raise RemoteError(
                    f"the coordinator answered with {type(reply).__name__}, which is no answer to a device"
                )

    def _step(self, event: Event) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            expected = ", ".join(known for state, known in TRANSITIONS if state is self.state)
            raise IllegalTransition(f'"{event}" in state "{self.state}"; expected {expected}') from None

    def _refused(self, fault: str, code: str, reason: str) -> None:
        if self.state is State.CONTRIBUTING and fault == "device":  # it will never be taken: asking again helps nobody
            self._ledger.settle(self._unacknowledged().release_id, "refused")
        raise RemoteError(f"the coordinator refused ({code}): {reason}; at fault: the {fault}")

    def _unacknowledged(self) -> Contribute:
        stored = self._ledger.unacknowledged()
        message = decode(stored, peer="the ledger") if stored is not None else None
        if not isinstance(message, Contribute):
            raise LocalError("the ledger holds no release to send")
        return message

    def _work(self, offer: Offer, now_s: float) -> None:
        """Train, protect, charge; or decline with the reason."""
        self._declining = self._objection(offer) or self._try_release(offer, now_s)
        self._step(Event.PREPARED if self._declining is None else Event.DECLINED)

    def _try_release(self, offer: Offer, now_s: float) -> Decline | None:
        try:
            data = self._data(offer)
        except FedgeError as fault:  # a file of the owner's, or a sensor that is silent just now
            return Decline(offer.task_id, offer.round, "data", str(fault)[:400])
        try:
            self._release(offer, data, now_s)
        except BudgetSpent as spent:
            return Decline(offer.task_id, offer.round, "budget_spent", str(spent)[:400])
        except (LocalError, RemoteError) as fault:
            return Decline(offer.task_id, offer.round, "task", str(fault)[:400])
        return None

    def _objection(self, offer: Offer) -> Decline | None:
        want = offer.task.model.parameter_count
        if offer.params.dtype != "<f4" or offer.params.shape != (want,):
            got = f"{offer.params.dtype} {list(offer.params.shape)}"
            return Decline(offer.task_id, offer.round, "task", f"want parameters <f4 [{want}], the offer has {got}")
        if not np.isfinite(offer.params.array()).all():
            return Decline(offer.task_id, offer.round, "task", "the offered parameters hold NaN or an infinity")
        if objection := self._policy.objection(offer):
            return Decline(offer.task_id, offer.round, "policy", objection)
        if self._ledger.recorded(offer.task_id, offer.round)[0]:
            return Decline(offer.task_id, offer.round, "policy", "this device has contributed to the round already")
        return None

    def _release(self, offer: Offer, data: Examples, now_s: float) -> None:
        task, privacy = offer.task, offer.task.privacy
        params = offer.params.array().astype(np.float32)
        update = model.local_update(task.model, task.training, params, data, self._shuffle)
        event: LaplaceEvent | None = None
        count: int | None = None
        metrics: Metrics | None = None
        if privacy.place == "none":
            payload = Tensor.of(update)
            count = len(data.y)
            score = model.score(task.model, params, data)
            metrics = Metrics(score.loss, score.accuracy)
        else:
            noise = privacy.noise()
            contribution = noise.contribution(update)
            event = noise.event
            if privacy.place == "local":
                payload = Tensor.of(narrowest_integer(noise.release(contribution, self._noise).values))
            else:
                payload = Tensor.of(narrowest_integer(contribution))
        message = Contribute(offer.task_id, offer.round, self._new_id(), payload, count, metrics)
        self._ledger.charge(
            release_id=message.release_id,
            task_id=offer.task_id,
            round_number=offer.round,
            place=privacy.place,
            event=event,
            message=encode(message),
            budget=self._policy.epsilon_budget,
            now_s=now_s,
        )

    def _data(self, offer: Offer) -> Examples:
        table = self._source.read(offer.task.inputs)
        if self._examples is None or self._examples[0] is not table:
            self._examples = (table, examples(table, offer.task.inputs))
        return self._examples[1]
