"""Being asked to stop: by SIGTERM (a scheduler, `docker stop`, torchrun) or by Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from models.errors import FaceError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(FaceError):
    """The run was asked to stop, and has, with a checkpoint of its last step."""

    code = "internal"


class Stop:
    """`asked` turns true with the first signal; the second does what it always does."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within, signals are taken note of. Python allows it in the main thread only; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
