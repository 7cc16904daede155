"""The status in header blocks."""

from hpack import Decoder

from .frames import STATUS

_KNOWN = 1000


class Statuses:
    """Of the blocks of one connection, each decoded once where it can be told from its bytes alone."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, str] = {}

    def without_table(self) -> None:
        """From now on no block may refer to an earlier one; one that does is an error.

        The server's next block ought to say that its table is gone, but the one by which grpcio answers a missed
        deadline does not, so that this is not left to it.
        """
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0

    def code(self, block: bytes) -> str:
        """What the status is called; UNKNOWN if there is none.

        Raises:
            HPACKError: these are not headers.
        """
        return self._known.get(block) or self._decoded(block)

    def _decoded(self, block: bytes) -> str:
        headers = {name: value for name, value, *_ in self._decoder.decode(block, raw=True)}
        code = STATUS.get(bytes(headers.get(b"grpc-status", b"")), "UNKNOWN")
        if self._decoder.header_table_size == 0:  # only without a table are equal bytes equal headers
            if len(self._known) == _KNOWN:
                self._known.clear()
            self._known[block] = code
        return code
