"""The device's half of the protocol, without I/O: replies and the time go in, requests come out.

The agent runs it against a coordinator, the simulator against thousands of others on a virtual clock. Its states are
the table ``TRANSITIONS``; docs/protocol.md is drawn from it.
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edge_runtime import __version__
from edge_runtime.errors import (
    ColumnMissing,
    DeviceFault,
    ExtractorUnusable,
    FedgeError,
    LocalError,
    NotEnoughYet,
    RemoteError,
)
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
    printable,
)
from edge_runtime.params import Tensor, narrowest_integer
from edge_runtime.policy import Policy
from edge_runtime.sources import Source

# NumPy and the kernels are imported when an offer comes: a device that waits, and most do, has no room for them.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseSource
    from edge_runtime.features import Examples
    from edge_runtime.inference import Extractors
    from edge_runtime.privacy.laplace import LaplaceEvent

log = logging.getLogger("fedge.device")

_MOST_DATA_DECLINES = 16


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
    """One device. ``noise`` makes releases: the system's generator where none is given. Raises LocalError for a
    replayable one unless ``simulated`` says that nothing here protects anybody. ``shuffle`` only orders examples.
    ``wait_s`` is how long the coordinator may hold an answer. ``extractor_folder`` is where the owner keeps the frozen
    models that tasks may run on the data.

    What the coordinator learns of the data is in the releases, which the ledger charges, and in one thing more: a
    device without a column or an extractor that the task names, or whose sensor has not given one example yet,
    declines. Each such decline counts, repeated ones too; after 16 the device declines everything until it is started
    again. Data whose values do not fit are no reason to decline under a mechanism: see ``_update``.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        ledger: Ledger,
        source: Source,
        noise: NoiseSource | None = None,
        shuffle: np.random.Generator | None = None,
        simulated: bool = False,
        link: str = "tcp",
        wait_s: float = 30.0,
        extractor_folder: Path | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        if noise is not None and not (noise.secure or simulated):
            raise LocalError("noise from a seed protects nobody who is real: use the system's generator")
        self.state = State.GREETING
        self.finished_because: str | None = None
        self.wakeup_at_s = 0.0
        self._policy, self._ledger, self._source = policy, ledger, source
        self._noise, self._shuffle, self._new_id = noise, shuffle, new_id
        self._link, self._wait_s = link, wait_s
        self._extractor_folder = extractor_folder
        self._extractors: Extractors | None = None
        self._declining: Decline | None = None
        self._examples: tuple[object, Examples] | None = None
        self._data_declines = 0
        self._resting_since_s = 0.0

    def connected(self) -> None:
        """A new connection stands: greet again, whatever was under way on the last one."""
        self._step(Event.CONNECTED)

    def request(self, now_s: float) -> Request | None:
        """What to send now; None while there is nothing to ask before ``wakeup_at_s``, or at all."""
        # A clock that was set back must not let the device sleep until it has caught up.
        if self.state is State.RESTING and not self._resting_since_s <= now_s < self.wakeup_at_s:
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
                self._resting_since_s, self.wakeup_at_s = now_s, now_s + retry_s
            case Finished(_, reason):
                self._step(Event.FINISHED)
                self.finished_because = printable(reason)
            case Offer():
                self._step(Event.OFFER)
                self._work(reply, now_s)
            case Receipt():
                self._acknowledged(reply)
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

    def _acknowledged(self, receipt: Receipt) -> None:
        """Settle our release; a receipt for another one, or for something we did not do, settles nothing."""
        if self.state is State.CONTRIBUTING:
            sent = self._unacknowledged().release_id
            if receipt.status == "noted" or receipt.release_id != sent:
                got = f'"{receipt.status}" for release "{printable(receipt.release_id)}"'
                raise RemoteError(f'the coordinator answered {got}, release "{sent}" was sent')
            self._ledger.settle(sent, receipt.status)
        elif self.state is State.DECLINING and receipt.status != "noted":
            raise RemoteError(f'the coordinator answered "{receipt.status}" to a decline')
        self._step(Event.RECEIPT)
        self._declining = None

    def _refused(self, fault: str, code: str, reason: str) -> NoReturn:
        if self.state is State.CONTRIBUTING and fault == "device":  # it will never be taken: asking again helps nobody
            self._ledger.settle(self._unacknowledged().release_id, "refused")
        raise RemoteError(f"the coordinator refused ({printable(code)}): {printable(reason)}; at fault: the {fault}")

    def _unacknowledged(self) -> Contribute:
        stored = self._ledger.unacknowledged()
        try:
            message = decode(stored, peer="the ledger") if stored is not None else None
        except RemoteError as fault:
            raise DeviceFault(f"the release in the privacy ledger is damaged: {fault}") from None
        if not isinstance(message, Contribute):
            raise DeviceFault("the privacy ledger holds no release to send")
        return message

    def _work(self, offer: Offer, now_s: float) -> None:
        """Train, protect, charge; or decline with the reason."""
        self._declining = self._objection(offer) or self._try_release(offer, now_s)
        self._step(Event.PREPARED if self._declining is None else Event.DECLINED)

    def _try_release(self, offer: Offer, now_s: float) -> Decline | None:
        try:
            data = self._data(offer)
            if isinstance(data, Decline):
                return data
            self._release(offer, data, now_s)
        except MemoryError:
            log.warning("round %d: there is not enough memory for the task", offer.round)
            return self._data_decline(offer, "the device has not enough memory for the task")
        except BudgetSpent as spent:
            return Decline(offer.task_id, offer.round, "budget_spent", str(spent)[:400])
        except (LocalError, RemoteError) as fault:
            return Decline(offer.task_id, offer.round, "task", str(fault)[:400])
        return None

    def _objection(self, offer: Offer) -> Decline | None:
        """Whatever speaks against the offer before the data are looked at."""
        import numpy as np

        want, privacy = offer.task.model.parameter_count, offer.task.privacy
        if offer.params.dtype != "<f4" or offer.params.shape != (want,):
            got = f"{offer.params.dtype} {list(offer.params.shape)}"
            return Decline(offer.task_id, offer.round, "task", f"want parameters <f4 [{want}], the offer has {got}")
        if not np.isfinite(offer.params.array()).all():
            return Decline(offer.task_id, offer.round, "task", "the offered parameters hold NaN or an infinity")
        if objection := self._policy.objection(offer):
            return Decline(offer.task_id, offer.round, "policy", objection)
        if self._ledger.has_charged(offer.task_id, offer.round):
            return Decline(offer.task_id, offer.round, "policy", "this device has contributed to the round already")
        try:
            if privacy.place != "none":
                self._ledger.check(privacy.noise().event, self._policy.epsilon_budget)
        except BudgetSpent as spent:
            return Decline(offer.task_id, offer.round, "budget_spent", str(spent)[:400])
        return None

    def _release(self, offer: Offer, data: Examples | None, now_s: float) -> None:
        import numpy as np

        from edge_runtime import model

        task, privacy = offer.task, offer.task.privacy
        params = offer.params.array().astype(np.float32)
        update = self._update(offer, params, data)
        event: LaplaceEvent | None = None
        count: int | None = None
        metrics: Metrics | None = None
        if privacy.place == "none":
            assert data is not None  # _data declines
            payload = Tensor.of(update)
            count = len(data.y)
            score = model.score(task.model, params, data)
            metrics = Metrics(score.loss, score.accuracy) if np.isfinite(score.loss) else None
        else:
            noise = privacy.noise()
            contribution = noise.contribution(update)
            if privacy.place == "local":
                release = noise.release(contribution, self._generator())
                payload, event = Tensor.of(narrowest_integer(release.values)), release.event
            else:
                payload, event = Tensor.of(narrowest_integer(contribution)), noise.event_for(contribution.size)
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

    def _update(self, offer: Offer, params: NDArray[np.float32], data: Examples | None) -> NDArray[np.float32]:
        """The update (P,) float32, finite.

        Under a mechanism, data whose values do not fit (None) and training that leaves the finite numbers, or the
        memory, give zeros, which are noised and charged like any other update. Whether that happens depends on the
        data, so an offer could be made whose decline would answer a question about them for nothing.
        """
        import numpy as np

        from edge_runtime import model

        if data is None:
            return np.zeros_like(params)
        try:
            return model.local_update(offer.task.model, offer.task.training, params, data, self._shuffled())
        except (RemoteError, MemoryError) as fault:
            if offer.task.privacy.place == "none":
                raise
            log.warning("round %d: %s; the update is taken as zero", offer.round, _loggable(fault))
            return np.zeros_like(params)

    def _generator(self) -> NoiseSource:
        if self._noise is None:
            from edge_runtime._kernels import SystemRng

            self._noise = SystemRng()
        return self._noise

    def _shuffled(self) -> np.random.Generator:
        if self._shuffle is None:
            import numpy as np

            self._shuffle = np.random.default_rng()
        return self._shuffle

    def _data(self, offer: Offer) -> Examples | Decline | None:
        """The examples of the task; None under a mechanism where the data's values do not fit; or a decline whose
        reason says nothing that is only in the values.
        """
        from edge_runtime.features import examples
        from edge_runtime.inference import Extractors

        if self._data_declines >= _MOST_DATA_DECLINES:
            reason = f"{_MOST_DATA_DECLINES} tasks did not fit this device's data; it takes no other until restarted"
            return Decline(offer.task_id, offer.round, "data", reason)
        inputs = offer.task.inputs
        try:
            if self._extractors is None:
                self._extractors = Extractors(self._extractor_folder)
            extract = self._extractors.of(inputs)
            table = self._source.read(inputs)
            if self._examples is None or self._examples[0] is not table:
                self._examples = (table, examples(table, inputs, extract))
            return self._examples[1]
        except ColumnMissing as fault:
            return self._data_decline(offer, f'the device\'s data have no column "{fault.column}"')
        except ExtractorUnusable as fault:
            return self._data_decline(offer, str(fault)[:400])
        except NotEnoughYet:  # says when a first example was there; a charge would spend the budget at every start
            return self._data_decline(offer, "the device has not enough data yet")
        except DeviceFault as fault:  # a sensor that is silent just now, a file that is gone
            log.warning("the data: %s", _loggable(fault))
            return Decline(offer.task_id, offer.round, "data", "the device's data source does not answer at the moment")
        except (FedgeError, MemoryError) as fault:
            log.warning("the data: %s", _loggable(fault))
        if offer.task.privacy.place == "none":
            return self._data_decline(offer, "the device's data do not fit the task; its own log says where")
        log.warning("round %d: the update is taken as zero and charged, for a decline would tell", offer.round)
        return None

    def _data_decline(self, offer: Offer, reason: str) -> Decline:
        self._data_declines += 1
        return Decline(offer.task_id, offer.round, "data", reason)


def _loggable(fault: Exception) -> str:
    """The fault for the owner's log: names that the coordinator chose are in it."""
    return printable(str(fault) or type(fault).__name__)[:400]
