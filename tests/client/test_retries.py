"""When a call is made again: by servers that refuse, break off or talk nonsense first."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import facesphere_client as fc
import grpc
import pytest
from awaited import Awaited, collect
from facesphere_client.retry import Attempts
from refusing import MODEL, Answer, Http, Rpc, abort, embedded, grpc_server, http_server, refusal

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb

FAST = fc.Retry(attempts=4, first_s=0.001, longest_s=0.002)
COLLECTION = {
    "name": "lab",
    "purpose": "p",
    "retention_days": None,
    "store_crops": False,
    "target_fmr": None,
    "require_consent": False,
    "subjects": 0,
    "faces": 0,
    "model": MODEL,
    "created_at": "now",
}
OK = Answer(200, COLLECTION)
ENROLLED = Answer(201, {"faces": [], "rejected": []})
BUSY = refusal(429, "overloaded", retry_after="0")
CUT = Answer(None)


@pytest.fixture(scope="module")
def http() -> Iterator[Http]:
    """A server of HTTP."""
    with http_server() as running:
        yield running


@pytest.fixture(scope="module")
def rpc() -> Iterator[Rpc]:
    """A server of gRPC."""
    with grpc_server() as running:
        yield running


@pytest.fixture(params=["waiting", "awaited"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        options = {"retry": FAST, "trust_env": False, **options}
        awaited = request.param == "awaited"
        made.append(Awaited(fc.AsyncClient(url, **options)) if awaited else fc.Client(url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    "first",
    [
        [BUSY],
        [refusal(429, "rate_limited"), BUSY],
        [refusal(503, "not_ready")],
        [refusal(503, "gallery_unavailable", outcome="nothing changed", retry_after="0")],
        [Answer(429, b"slow down", "0")],
    ],
)
def test_what_the_server_says_it_did_not_do_is_asked_for_again(
    http: Http, connect: Callable[..., Any], first: list[Answer]
) -> None:
    http.script(*first, OK)
    assert connect(http.url).collection("lab").name == "lab"
    http.script(*first, ENROLLED)
    assert connect(http.url).enrol("lab", "ann", b"photo").faces == ()
    assert len(http.asked) == len(first) + 1


@pytest.mark.parametrize(
    "first", [CUT, Answer(502, b"<html>"), Answer(503, b"<html>", "0"), refusal(503, "gallery_unavailable")]
)
def test_what_may_be_done_already_is_asked_for_again_only_where_twice_is_as_good_as_once(
    http: Http, connect: Callable[..., Any], first: Answer
) -> None:
    client = connect(http.url)
    http.script(first, OK)
    assert client.collection("lab").name == "lab"
    http.script(first, ENROLLED)
    assert client.enrol("lab", "ann", b"photo").faces == ()
    once, again = http.asked
    assert once == again
    assert "idempotency_key=" in once
    for change in (client.roll_back_model, lambda: client.delete_subject("lab", "ann")):
        http.script(first, ENROLLED)
        with pytest.raises(fc.FacesphereError):
            change()
        assert len(http.asked) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(400, "invalid_request"), fc.InvalidRequestError),
        (refusal(409, "contract_mismatch"), fc.ContractMismatchError),
        (refusal(507, "storage_full"), fc.StorageFullError),
        (refusal(504, "deadline_exceeded"), fc.DeadlineExceededError),
        (refusal(418, "a_code_of_tomorrow"), fc.ApiError),
        (Answer(404, b"no such page"), fc.ProtocolError),
        (Answer(200, b"<html>"), fc.ProtocolError),
        (Answer(200, {"name": "lab"}), fc.ProtocolError),
        (Answer(500, {"error": "of another kind"}), fc.ProtocolError),
    ],
)
def test_what_would_be_the_same_again_is_raised_at_once(
    http: Http, connect: Callable[..., Any], answer: Answer, kind: type[fc.FacesphereError]
) -> None:
    http.script(answer)
    with pytest.raises(kind) as refused:
        connect(http.url).collection("lab")
    assert len(http.asked) == 1
    if isinstance(refused.value, fc.ApiError):
        assert (refused.value.code, refused.value.request_id) == (answer.body["error"]["code"], "r")


def test_it_gives_up_after_its_attempts_with_the_last_error(http: Http, connect: Callable[..., Any]) -> None:
    http.script(BUSY)
    with pytest.raises(fc.OverloadedError):
        connect(http.url).collection("lab")
    assert len(http.asked) == FAST.attempts
    http.script(BUSY)
    with pytest.raises(fc.OverloadedError):
        connect(http.url, retry=fc.NEVER).collection("lab")
    assert len(http.asked) == 1


def test_fields_that_a_later_server_adds_are_left_out(http: Http, connect: Callable[..., Any]) -> None:
    http.script(Answer(200, {**COLLECTION, "colour": "blue", "model": {**MODEL, "age": 3}}))
    assert connect(http.url).collection("lab").model.dimension == 4


def test_waits_grow_are_random_and_heed_what_the_server_asks_for() -> None:
    retry = fc.Retry(attempts=6, first_s=1, longest_s=4, total_s=1000)

    def waits(error: fc.FacesphereError) -> list[float]:
        attempts = Attempts(retry, repeatable=True)
        return [attempts.after(error) for _ in range(retry.attempts - 1)]

    drawn = [waits(fc.OverloadedError("busy")) for _ in range(200)]
    for number, longest in enumerate((1, 2, 4, 4, 4)):
        column = [each[number] for each in drawn]
        assert 0.8 * longest < max(column) <= longest
        assert min(column) < 0.2 * longest
    assert all(wait >= 7 for wait in waits(fc.OverloadedError("busy", retry_after_s=7)))


def test_it_does_not_begin_to_wait_for_longer_than_it_may_in_all() -> None:
    attempts = Attempts(fc.Retry(attempts=100, total_s=5), repeatable=True)
    with pytest.raises(fc.RateLimitedError):
        attempts.after(fc.RateLimitedError("tomorrow", retry_after_s=86_400))


def test_a_server_that_is_not_there_was_not_asked(connect: Callable[..., Any]) -> None:
    with pytest.raises(fc.ConnectionFailedError) as nobody:
        connect("http://127.0.0.1:9").enrol("lab", "ann", b"photo")
    assert nobody.value.sent is False


def test_no_answer_in_time_is_no_reason_to_ask_again(rpc: Rpc, connect: Callable[..., Any]) -> None:
    def stall(_: Any, context: grpc.ServicerContext) -> Any:
        while context.is_active():
            time.sleep(0.005)
        return embedded()

    rpc.script(unary=stall)
    with pytest.raises(fc.TimedOutError):
        connect(rpc.address, timeout_s=0.1).embed(b"photo")
    assert len(rpc.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "enrolled", "erased"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded", 2, 2),
        (grpc.StatusCode.UNAVAILABLE, "not_ready", 2, 2),
        (grpc.StatusCode.UNAVAILABLE, "gallery_unavailable", 2, 1),
        (grpc.StatusCode.UNAVAILABLE, None, 2, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "storage_full", 1, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, 1, 1),
        (grpc.StatusCode.UNKNOWN, None, 1, 1),
    ],
)
def test_over_grpc_it_is_the_same(
    rpc: Rpc,
    connect: Callable[..., Any],
    status: grpc.StatusCode,
    code: str | None,
    enrolled: int,
    erased: int,
) -> None:
    client = connect(rpc.address)
    for change, answer, asked in (
        (lambda: client.enrol("lab", "ann", b"photo"), pb.EnrollResponse(), enrolled),
        (lambda: client.delete_subject("lab", "ann"), pb.ErasureReceipt(), erased),
    ):

        def refuse_once(_: Any, context: grpc.ServicerContext, answer: Any = answer) -> Any:
            if len(rpc.asked) == 1:
                abort(context, status, code)
            return answer

        rpc.script(unary=refuse_once)
        if asked == 2:
            assert change()
            assert rpc.asked[0] == rpc.asked[1]  # under the same idempotency key
        else:
            with pytest.raises(fc.FacesphereError):
                change()
        assert len(rpc.asked) == asked


def test_a_message_that_is_too_large_says_so(rpc: Rpc, connect: Callable[..., Any]) -> None:
    with pytest.raises(fc.PayloadTooLargeError):
        connect(rpc.address).embed(bytes(5 * 2**20))


def _echo(request: Any) -> Any:
    return pb.EmbedStreamResponse(id=request.id, response=embedded(float(request.request.image)))


def test_a_stream_of_embeddings_that_breaks_off_is_gone_on_with(rpc: Rpc, connect: Callable[..., Any]) -> None:
    def break_now_and_then(request: Any, context: grpc.ServicerContext) -> Any:
        if len(rpc.asked) in (4, 9, 10):
            abort(context, grpc.StatusCode.UNAVAILABLE, None)
        return _echo(request)

    rpc.script(item=break_now_and_then)
    photos = [(f"p{number}", str(number).encode()) for number in range(30)]

    outcomes = list(connect(rpc.address, concurrency=5).embed_many(photos))

    assert {each.id: float(each.get().faces[0].embedding[0]) for each in outcomes} == {
        f"p{number}": float(number) for number in range(30)
    }
    assert len(outcomes) == 30
    assert len(rpc.asked) > 30


def test_a_stream_that_falls_silent_is_given_up(rpc: Rpc, connect: Callable[..., Any]) -> None:
    def fall_silent(request: Any, context: grpc.ServicerContext) -> Any:
        while len(rpc.asked) == 3 and context.is_active():
            time.sleep(0.005)
        return _echo(request)

    rpc.script(item=fall_silent)
    client, outcomes = connect(rpc.address, timeout_s=0.2), list[fc.Outcome[fc.EmbeddedPhoto]]()
    with pytest.raises(fc.TimedOutError):
        collect(client, outcomes, "embed_many", [(str(number), str(number).encode()) for number in range(6)])
    assert [each.id for each in outcomes if each.error is None] == ["0", "1"]
    assert [each.id for each in outcomes if isinstance(each.error, fc.TimedOutError)] == ["2", "3", "4", "5"]


def test_a_stream_that_is_refused_says_why(rpc: Rpc, connect: Callable[..., Any]) -> None:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        abort(context, grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")

    rpc.script(item=refuse)
    with pytest.raises(fc.UnauthenticatedError):
        list(connect(rpc.address).embed_many((str(number), b"photo") for number in range(100)))


def test_an_item_that_there_was_no_room_for_is_asked_about_again_by_itself(
    rpc: Rpc, connect: Callable[..., Any]
) -> None:
    def busy(request: Any, _: grpc.ServicerContext) -> Any:
        if request.request.image == b"3":
            return pb.EmbedStreamResponse(id=request.id, error=pb.Error(code="overloaded", message="busy"))
        return _echo(request)

    rpc.script(item=busy, unary=lambda request, _: embedded(float(request.image)))

    outcomes = list(connect(rpc.address).embed_many((str(number), str(number).encode()) for number in range(6)))

    assert sorted(float(each.get().faces[0].embedding[0]) for each in outcomes) == [0, 1, 2, 3, 4, 5]


def test_a_stream_of_enrolments_that_breaks_off_is_gone_on_with_under_the_same_keys(
    rpc: Rpc, connect: Callable[..., Any]
) -> None:
    keys: dict[str, set[str]] = {}

    def break_off(request: Any, context: grpc.ServicerContext) -> Any:
        keys.setdefault(request.id, set()).add(request.request.idempotency_key)
        if len(rpc.asked) == 4:
            abort(context, grpc.StatusCode.UNAVAILABLE, None)
        return pb.EnrollStreamResponse(id=request.id, response=pb.EnrollResponse())

    rpc.script(item=break_off)
    outcomes = list(
        connect(rpc.address, concurrency=5).enrol_many("lab", ((str(n), "ann", b"photo") for n in range(30)))
    )

    assert sorted(int(each.id) for each in outcomes if each.error is None) == list(range(30))
    assert all(len(each) == 1 for each in keys.values())
    assert len(set.union(*keys.values())) == 30


def test_a_stream_that_breaks_off_for_good_tells_what_was_under_way(rpc: Rpc, connect: Callable[..., Any]) -> None:
    def break_off(request: Any, context: grpc.ServicerContext) -> Any:
        if len(rpc.asked) >= 4:
            abort(context, grpc.StatusCode.UNAVAILABLE, None)
        return pb.EnrollStreamResponse(id=request.id, response=pb.EnrollResponse())

    rpc.script(item=break_off)
    client, outcomes = connect(rpc.address, concurrency=5), list[fc.Outcome[fc.Enrolment]]()
    people = [(str(number), "ann", b"photo") for number in range(30)]

    with pytest.raises(fc.ConnectionFailedError):
        collect(client, outcomes, "enrol_many", "lab", people)

    assert [each.id for each in outcomes if each.error is None] == ["0", "1", "2"]
    assert [each.id for each in outcomes if isinstance(each.error, fc.ConnectionFailedError)] == [
        "3",
        "4",
        "5",
        "6",
        "7",
    ]


def test_a_key_is_not_in_what_is_printed_of_a_client(http: Http) -> None:
    from facesphere_client.options import Options

    assert "secret" not in repr(Options(key="secret"))
