"""Texts from any thread or coroutine -> what they make, by one thread that runs a scheduler."""

import asyncio
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

from codegen_cli.contract.stream import Task
from codegen_cli.decoding.running_text import Ended, Text
from codegen_cli.decoding.scheduler import Scheduler

Deliver = Callable[[Any], None]
"""Hands a thing that a text made, and last Ended, to whoever asked for it; raises if they went."""


class _Ticket:
    """A text as its asker and the thread know it."""

    def __init__(self, task: Task, deliver: Deliver) -> None:
        self.task = task
        self.deliver = deliver
        self.is_wanted = True
        self.text: Text | None = None


class Service:
    """Runs texts that are submitted at any time, from anywhere, together; a context manager.

    One thread drives the scheduler, and sleeps while there is nothing to do. Whoever waits for a
    text sleeps, too. A text whose asker went away is let go before the next step.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._orders: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._tickets: dict[Text, _Ticket] = {}
        self._is_closed = False
        self._closing = threading.Lock()  # no order comes after the last that the thread looks at
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> "Submission":
        """Return an iterator over what a task makes; it is under way at once.

        Raises ValueError once the service is closed.
        """
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        return Submission(made, self._order(_Ticket(task, made.put)))

    async def stream(self, task: Task) -> AsyncIterator[Any]:
        """Yield what a task makes, in a coroutine; one that ends or is cancelled lets it go."""
        loop, made = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def deliver(item: Any) -> None:
            loop.call_soon_threadsafe(made.put_nowait, item)

        let_go = self._order(_Ticket(task, deliver))
        try:
            while not isinstance(item := await made.get(), Ended):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            let_go()

    def close(self) -> None:
        """End the thread after the step that it is in; texts under way end with ValueError."""
        self._orders.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, ticket: _Ticket) -> Callable[[], None]:
        """Hand a ticket over; return what lets its text go."""
        with self._closing:
            if self._is_closed:
                raise ValueError("the service is closed")
            self._orders.put(ticket)
        orders = self._orders

        def let_go() -> None:
            if ticket.is_wanted:
                ticket.is_wanted = False
                orders.put(ticket)

        return let_go

    def _drive(self) -> None:
        error: Exception = ValueError("the service is closed")
        try:
            while self._obey():
                for text, item in self._scheduler.step():
                    self._deliver(text, item)
        except Exception as unexpected:
            error = unexpected
        with self._closing:
            self._is_closed = True
        for text in list(self._tickets):
            self._deliver(text, Ended(error=error))
        while not self._orders.empty():
            ticket = self._orders.get()
            if ticket is not None:
                self._hand_over(ticket, Ended(error=error))

    def _obey(self) -> bool:
        """Take in what was ordered, waiting where nothing is to do; tell whether to go on."""
        while self._scheduler.is_idle or not self._orders.empty():
            ticket = self._orders.get()
            if ticket is None:
                return False
            if ticket.text is not None:
                self._scheduler.remove(ticket.text)
                self._tickets.pop(ticket.text, None)
            elif ticket.is_wanted:
                ticket.text = self._scheduler.add(ticket.task)
                self._tickets[ticket.text] = ticket
        return True

    def _deliver(self, text: Text, item: Any) -> None:
        ticket = self._tickets.get(text)
        if ticket is not None:
            if isinstance(item, Ended):
                del self._tickets[text]
            self._hand_over(ticket, item)

    def _hand_over(self, ticket: _Ticket, item: Any) -> None:
        try:
            ticket.deliver(item)
        except RuntimeError:  # its event loop is closed
            ticket.is_wanted = False
            if ticket.text is not None:
                self._scheduler.remove(ticket.text)
                self._tickets.pop(ticket.text, None)


class Submission(Iterator[Any]):
    """What a text makes, as it is made. Closing it, or losing it, lets the text go."""

    def __init__(self, made: "queue.SimpleQueue[Any]", let_go: Callable[[], None]) -> None:
        self._made = made
        self._is_over = False
        self._let_go = weakref.finalize(self, let_go)
        self._let_go.atexit = False

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        item = self._made.get()
        if not isinstance(item, Ended):
            return item
        self.close()
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Let the text go; nothing more comes of it."""
        self._is_over = True
        self._let_go()
