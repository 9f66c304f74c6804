"""SIGINT and SIGTERM in a training: the step is finished first, so that the saved state is complete."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self


class Interrupts:
    """Handles SIGINT and SIGTERM. Inside `held` they wait for its end, elsewhere they interrupt at once.

    Both raise KeyboardInterrupt. `inside` says after an exception whether a step was left half-done.
    """

    def __enter__(self) -> Self:
        self.inside = self.received = False
        self._earlier: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # only there does Python allow it
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.SIG_IGN:  # nohup, a job in the background: it stays ignored
                    continue
                self._earlier[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler or signal.SIG_DFL)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A step that must not stop half-way. A second signal stops it; `inside` then stays true, as after an error."""
        self.inside = True
        yield
        self.inside = False
        if self.received:
            raise KeyboardInterrupt

    def _take(self, number: int, frame: object) -> None:
        if not self.inside or self.received:
            if number == signal.SIGINT and callable(earlier := self._earlier[number]):
                earlier(number, frame)  # the command line counts them
            raise KeyboardInterrupt
        self.received = True
