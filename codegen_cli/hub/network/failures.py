"""What can become of a request besides what the hub's client raises."""


class LinkExpired(Exception):
    """A link that the hub gave is refused: the hub has to be asked anew, and knows why."""


class NoRanges(Exception):
    """A server answers ranges with something else: only whole files can be had from it."""


class ConnectionCut(Exception):
    """An answer ended before its file did."""


class WrongLength(Exception):
    """A server sends another length of a file than the hub states; the text says so."""


class FileChanged(Exception):
    """The hub has another file, or another commit, under a name than when it was asked first."""
