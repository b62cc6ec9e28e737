"""Interruption of a pipeline's calls that are running."""

from collections.abc import Callable

from clip2clap.core.errors import InterruptedCallError


class Interruptible:
    """Mix-in of pipelines whose running calls can be stopped."""

    _interrupts = 0

    def interrupt(self) -> None:
        """Stop all calls of this pipeline that are running, in any thread.

        Each raises `InterruptedCallError` after its current denoising step; a call past its last
        step returns its output. Calls made later run as usual. A callback may interrupt its own,
        also as in diffusers, by `pipe._interrupt = True`.
        """
        self._interrupts += 1

    @property
    def _interrupt(self) -> bool:
        return False

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        if value:
            self.interrupt()

    def _interruption_check(self, before: int) -> Callable[[], None]:
        """Return a check that raises if calls were interrupted more often than `before`."""

        def check() -> None:
            if self._interrupts != before:
                raise InterruptedCallError("The call was stopped by interrupt().")

        return check
