"""The numbers of HTTP/2 and of gRPC over it."""

import struct

LATE, LOST = "DEADLINE_EXCEEDED", "UNAVAILABLE"
CODES = (
    *("ok", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", LATE, "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"),
    *("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", LOST),
    *("DATA_LOSS", "UNAUTHENTICATED"),
)
STATUS = {str(number).encode(): code for number, code in enumerate(CODES)}
RESETS = {7: LOST, 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # others: INTERNAL

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE = 0, 1, 3, 4, 5
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
ACK = END_STREAM = 0x01
END_HEADERS, PADDED, PRIORITY = 0x04, 0x08, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5
REFUSED, CANCEL = 7, 8
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 2**16 - 1
DEFAULT_FRAME = 2**14
HEAD_SIZE = 9
FRAME = struct.Struct(">HBBBL")  # length in two parts, type, flags, stream
SETTING = struct.Struct(">HL")
MESSAGE = struct.Struct(">BL")  # compressed or not, length
NUMBER = struct.Struct(">L")


def framed(message: bytes) -> bytes:
    """A message as the body of a call."""
    return MESSAGE.pack(0, len(message)) + message
