"""What holds for every request: headers, counts, errors in one form, whatever route it takes or none."""

import pytest
from starlette.routing import Route

from gnm.serve.answers import HEADERS
from gnm.serve.errors import Refused

ERRORS = {
    400: ("invalid_request_error", "bad_request"),
    401: ("invalid_request_error", "no_key"),
    403: ("invalid_request_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "timeout"),
    409: ("invalid_request_error", "conflict"),
    413: ("invalid_request_error", "too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("invalid_request_error", "too_many_requests"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "overloaded"),
    507: ("server_error", "insufficient_storage"),
}


def counted(service, route, method, status):
    labels = {"route": route, "method": method, "status": str(status)}
    return service.service.metrics.registry.get_sample_value("gnm_requests_total", labels) or 0


@pytest.mark.parametrize(
    ("method", "path", "status", "route", "counted_as"),
    [
        ("GET", "/", 200, "/", "GET"),
        ("GET", "/v1/memories", 200, "/v1/memories", "GET"),
        ("GET", "/v1/memories/absent", 404, "/v1/memories/{name}", "GET"),
        ("GET", "/v1/memories/", 307, "none", "any"),
        ("GET", "/nothing/here", 404, "none", "any"),
        ("PUT", "/v1/memories/absent", 405, "none", "any"),
        ("BREW", "/v1/memories", 405, "none", "any"),
    ],
)
def test_every_answer_has_the_headers_and_is_counted_once(anna, service, method, path, status, route, counted_as):
    before = counted(service, route, counted_as, status)
    answer = anna.request(method, path)
    assert answer.status_code == status and HEADERS.items() <= {k.title(): v for k, v in answer.headers.items()}.items()
    assert counted(service, route, counted_as, status) == before + 1


def test_a_wrong_method_is_told_all_right_ones(anna):
    assert anna.put("/v1/memories/absent").headers["Allow"] == "DELETE, GET, HEAD"
    assert anna.get("/v1/memories/absent/file/").status_code == 307
    told = anna.post("/v1/memories/absent/file")
    assert told.headers["Allow"] == "GET, HEAD, PUT" and told.json()["error"]["code"] == "method_not_allowed"


def test_pages_of_another_origin_get_nothing_on_any_path(anna):
    for path in ("/", "/v1/memories", "/v1/memories/", "/nothing"):
        assert anna.get(path, headers={"Origin": "http://other.example"}).status_code == 403


def test_a_fault_while_a_route_is_looked_for_is_told_without_its_text(anna, monkeypatch, caplog, capfd):
    def broken(self, scope):
        raise ValueError("Zanzibar")

    monkeypatch.setattr(Route, "matches", broken)
    answer = anna.get("/v1/memories")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    assert "unexpected ValueError at" in caplog.text
    told = answer.text + caplog.text + capfd.readouterr().err
    assert "Zanzibar" not in told and "Traceback" not in told


@pytest.mark.parametrize(("status", "names"), ERRORS.items())
def test_an_error_has_the_names_that_programs_know_it_by(status, names):
    error = Refused(status, "No.").body()["error"]
    assert (error["type"], error["code"], error["message"]) == (*names, "No.")
