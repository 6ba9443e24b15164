"""Alerts: a failed run is told to a webhook, where one is given, and the webhook's address to nobody."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

from orchestration import alerts
from orchestration.alerts import VARIABLE, build_alert_sensors
from tests.orchestration.dataset_operator import NewOperator, photograph
from tests.servers.places import NewPlace

SECRET = "T000-canary"


class Webhook:
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.status = 200
        self.failures = 0
        """So many posts are answered by 503 first."""
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.posts.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                webhook.failures -= 1
                self.send_response(503 if webhook.failures >= 0 else webhook.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/{SECRET}"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    made = Webhook()
    monkeypatch.setenv(VARIABLE, made.url)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_without_a_webhook_there_is_no_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert build_alert_sensors() == []


def test_a_failed_run_is_told_with_its_partition_and_reason(
    webhook: Webhook, place: NewPlace, new_operator: NewOperator
) -> None:
    where = place("file")
    where.put("raw/a/0.jpg", photograph(0))
    where.put("raw/a/1.jpg", b"")
    operator = new_operator(where)
    (failed,) = operator.tick()
    operator.alert(failed)
    (post,) = webhook.posts
    assert "of watched_job of a failed" in post["text"]
    assert "1 of 2 samples (50.0%) were rejected" in post["text"]

    operator.instance.add_run_tags(failed.run_id, {"dagster/will_retry": "true"})
    operator.alert(failed)
    assert len(webhook.posts) == 1, "Dagster itself tries the run again"
    operator.instance.add_run_tags(failed.run_id, {"dagster/will_retry": "false"})

    webhook.status = 403
    with pytest.raises(dg.Failure, match="HTTP status 403") as caught:
        operator.alert(failed)
    assert SECRET not in str(caught.value)
    webhook.server.shutdown()
    webhook.server.server_close()
    with pytest.raises(dg.Failure) as caught:
        operator.alert(failed)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("failures", "posts"), [(0, 1), (2, 3)])
def test_a_webhook_that_fails_for_a_moment_is_told_again(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, failures: int, posts: int
) -> None:
    monkeypatch.setattr(alerts, "_WAITS", (0.0, 0.0))
    webhook.failures = failures
    alerts.post("a run failed")
    assert webhook.posts == [{"text": "a run failed"}] * posts


@pytest.mark.parametrize("url", [f"hooks.example/{SECRET}", f"http://127.0.0.1:1/{SECRET} with spaces"])
def test_an_address_that_is_none_is_not_told_either(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(alerts, "_WAITS", ())
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(dg.Failure, match=VARIABLE) as caught:
        alerts.post("a run failed")
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
