"""Texts from any thread or coroutine -> what they make, by one thread that runs a scheduler."""

import asyncio
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
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
    text sleeps, too. A text whose asker went away is let go before the next step, and one that
    fails leaves the others. A service that is lost is closed.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._driver = driver = _Driver(scheduler)
        self._thread = threading.Thread(target=driver.run, daemon=True)
        self._thread.start()
        weakref.finalize(self, driver.end).atexit = False

    def submit(self, task: Task) -> "Submission":
        """Return an iterator over what a task makes; it is under way at once.

        Raises ValueError once the service is closed.
        """
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        ticket = _Ticket(task, made.put)
        submission = Submission(self, made, partial(self._driver.let_go, ticket))
        self._driver.order(ticket)  # last: whatever comes between, what is lost is let go
        return submission

    async def stream(self, task: Task) -> AsyncIterator[Any]:
        """Yield what a task makes, in a coroutine; one that ends or is cancelled lets it go.

        Raises as `submit` does.
        """
        loop, made = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def deliver(item: Any) -> None:
            loop.call_soon_threadsafe(made.put_nowait, item)

        ticket = _Ticket(task, deliver)
        try:
            self._driver.order(ticket)
            while not isinstance(item := await made.get(), Ended):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            self._driver.let_go(ticket)

    def close(self) -> None:
        """End the thread after the step that it is in; texts under way end with ValueError."""
        self._driver.end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Driver:
    """What the thread of a service does, and how it is told; it knows no Service.

    An order is a ticket that is new, or one that nobody wants any more; None ends the thread.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._orders: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._tickets: dict[Text, _Ticket] = {}
        self._is_closed = False
        self._closing = threading.Lock()  # no order comes after the last that the thread looks at
        self._failure: BaseException | None = None

    def order(self, ticket: _Ticket) -> None:
        """Hand a ticket over; ValueError once the service is closed."""
        with self._closing:
            if self._is_closed:
                raise self._closed()
            self._orders.put(ticket)

    def let_go(self, ticket: _Ticket) -> None:
        """Have nothing more come of a ticket."""
        if ticket.is_wanted:
            ticket.is_wanted = False
            self._orders.put(ticket)

    def end(self) -> None:
        """Have the thread end after its step."""
        self._orders.put(None)

    def run(self) -> None:
        """Run the scheduler until the end; nobody waits for anything then."""
        try:
            while self._obey():
                for text, item in self._scheduler.step():
                    self._deliver(text, item)
        except BaseException as error:  # a fault of the scheduler: no text's error comes so far
            self._failure = error
        with self._closing:
            self._is_closed = True
        for ticket in self._tickets.values():
            self._hand_over(ticket, Ended(error=self._closed()))
        while not self._orders.empty():
            if (late := self._orders.get()) is not None:
                self._hand_over(late, Ended(error=self._closed()))
        self._tickets.clear()
        self._scheduler.close()

    def _closed(self) -> ValueError:
        error = ValueError("the service is closed")
        error.__cause__ = self._failure
        return error

    def _obey(self) -> bool:
        """Take in what was ordered, waiting where nothing is to do; tell whether to go on."""
        while self._scheduler.is_idle or not self._orders.empty():
            ticket = self._orders.get()
            if ticket is None:
                return False
            if not ticket.is_wanted:
                self._forget(ticket)
            elif ticket.text is None:
                self._begin(ticket)
        return True

    def _begin(self, ticket: _Ticket) -> None:
        try:
            ticket.text = self._scheduler.add(ticket.task)
        except Exception as error:  # what was submitted is no task
            self._hand_over(ticket, Ended(error=error))
        else:
            self._tickets[ticket.text] = ticket

    def _deliver(self, text: Text, item: Any) -> None:
        ticket = self._tickets.get(text)
        if ticket is not None:
            if isinstance(item, Ended):
                del self._tickets[text]
            self._hand_over(ticket, item)

    def _hand_over(self, ticket: _Ticket, item: Any) -> None:
        if not ticket.is_wanted:
            return
        try:
            ticket.deliver(item)
        except RuntimeError:  # its event loop is closed
            self.let_go(ticket)

    def _forget(self, ticket: _Ticket) -> None:
        if ticket.text is not None:
            self._scheduler.remove(ticket.text)
            self._tickets.pop(ticket.text, None)


class Submission(Iterator[Any]):
    """What a text makes, as it is made. Closing it, or losing it, lets the text go.

    It may be closed by any thread: whoever waits for more then learns that nothing comes.
    """

    def __init__(
        self, service: Service, made: "queue.SimpleQueue[Any]", let_go: Callable[[], None]
    ) -> None:
        self._service = service  # which runs as long as somebody waits
        self._made = made
        self._ended: Ended | None = None
        self._let_go = weakref.finalize(self, let_go)
        self._let_go.atexit = False

    def __next__(self) -> Any:
        item = self._ended or self._made.get()
        if not isinstance(item, Ended):
            return item
        self._end(item)
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Let the text go; nothing more comes of it."""
        self._end(Ended())

    def _end(self, ended: Ended) -> None:
        self._ended = ended
        self._let_go()
        self._made.put(ended)  # for each who waits beside: they wake one another
