"""Holds what a gateway answers against its OpenAPI document: `validate_streams.py URL-OF-GATEWAY`, with the echo service behind it. Exits with 0 if all
is as declared.

Lives here: calls of the streaming methods in each media type that is declared, calls that fail with each gRPC code, and what a JSON Schema validator
says of what comes. Does not: the document itself (`validate_openapi.py`), methods that do not stream (schemathesis).
A schema lets members be that it does not name. Here they are errors, or a document that says nothing would fit everything.
"""

import json
import sys
import urllib.error
import urllib.request

from jsonschema import Draft202012Validator

ECHO = "/weft.testkit.v1.Echo/"
JSON, LINES, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
FAILED_PRECONDITION = 9

# What is asked, and what has to come: the texts of the messages, and the code with which the stream then fails.
CASES = [
    ("ServerStream", {"text": "many ☂", "count": 3, "padding": 5}, ["many ☂"] * 3, None),
    ("ServerStream", {"text": "none", "count": 0}, [], None),
    ("Bidi", [{"text": "a"}, {"text": "b"}], ["a", "b"], None),
    ("Bidi", [{"text": "well"}, {"text": "badly", "delayMs": 200, "failWith": FAILED_PRECONDITION}], ["well"], FAILED_PRECONDITION),
]


def call(path: str, body: object = None, accept: str = JSON, kind: str = JSON) -> tuple[int, dict, str, str]:
    """Returns status, headers, media type and text of an answer; GET without a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(sys.argv[1] + path, data, {"accept": accept, "content-type": kind})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as refused:
        answer = refused
    with answer:
        return answer.status, answer.headers, answer.headers.get_content_type(), answer.read().decode()


def lines(text: str) -> list:
    assert not text or text.endswith("\n"), text
    return [json.loads(line) for line in text.split("\n")[:-1]]


def events(text: str) -> list:
    """Returns the data of events, whose ids count from 1, and of which one that is an error is the last."""
    assert not text or text.endswith("\n\n"), text
    blocks = [[line for line in block.split("\n") if not line.startswith(":")] for block in text.split("\n\n")[:-1]]
    told = [dict(line.split(": ", 1) for line in block) for block in blocks if block]
    failed = told[-1:] if told and "event" in told[-1] else []
    assert all(it["event"] == "error" for it in failed), text
    whole = told[: len(told) - len(failed)]
    assert [it.keys() for it in whole] == [{"id", "data"}] * len(whole), text
    assert [it["id"] for it in whole] == [str(number + 1) for number in range(len(whole))], text
    messages = [json.loads(it["data"]) for it in told]
    assert ["error" in it for it in messages] == [False] * len(whole) + [True] * len(failed), text
    return messages


SPLIT = {JSON: json.loads, LINES: lines, EVENTS: events}
document = json.loads(call("/openapi.json")[3])


def resolved(it: dict) -> dict:
    while "$ref" in it:
        path, it = it["$ref"].removeprefix("#/").split("/"), document
        for part in path:
            it = it[part]
    return it


def validator(schema: dict, **more: object) -> Draft202012Validator:
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return Draft202012Validator({"$schema": dialect, "components": document["components"], **schema, **more})


def closed(schema: dict) -> Draft202012Validator:
    return validator(schema, unevaluatedProperties=False)


def declared(operation: dict, status: int, headers: dict) -> dict:
    """Returns the response that the document declares for a status, after a look at the headers that have to be there."""
    assert str(status) in operation["responses"], f"{status} is not declared"
    response = resolved(operation["responses"][str(status)])
    for name, header in response["headers"].items():
        assert name in headers or not resolved(header).get("required"), f"{status} without {name}"
    return response


def operation_of(method: str) -> dict:
    return document["paths"][ECHO + method]["post"]


def check_stream(method: str, asked: object, texts: list[str], code: int | None, accept: str) -> int:
    operation = operation_of(method)
    validator(operation["requestBody"]["content"][JSON]["schema"]).validate(asked)
    status, headers, kind, text = call(ECHO + method, asked, accept)
    assert (status, kind) == (200, accept), (status, kind, text)
    media = declared(operation, status, headers)["content"][kind]
    validator(media["schema"]).validate(json.loads(text) if kind == JSON else text)
    one = closed(media["schema"]["items"] if kind == JSON else media["x-weft-item"])
    messages = SPLIT[kind](text)
    for message in messages:
        one.validate(message)
    assert [it["text"] for it in messages if "error" not in it] == texts, text
    assert [it["error"]["code"] for it in messages if "error" in it] == ([] if code is None else [code]), text
    assert code is None or "error" in messages[-1], text
    # What says yes to these says no to others.
    for message in messages:
        wrong = {"error": {"code": "nine"}} if "error" in message else {**message, "text": 7}
        assert not one.is_valid(wrong) and not one.is_valid({**message, "unheardOf": 1}), message
    return len(messages)


def check_failure(method: str, code: int, answer: tuple[int, dict, str, str], said: str) -> None:
    status, headers, kind, text = answer
    response = declared(operation_of(method), status, headers)
    assert said in response["description"], f"{status} for {code}: {response['description']}"
    error = json.loads(text)
    closed(response["content"][kind]["schema"]).validate(error)
    assert error["code"] == code and not closed(response["content"][kind]["schema"]).is_valid({**error, "code": "x"}), text


count = 0
for case in CASES:
    content = resolved(operation_of(case[0])["responses"]["200"])["content"]
    assert content.keys() == SPLIT.keys(), content.keys()
    count += sum(check_stream(*case, kind) for kind in content)

# Before its first message, a stream fails like any call, whatever the client accepts.
for code in range(1, 17):
    for accept in SPLIT if code == FAILED_PRECONDITION else [EVENTS]:
        asked = {"text": "no", "count": 1, "failWith": code}
        check_failure("ServerStream", code, call(ECHO + "ServerStream", asked, accept), f"({code})")
check_failure("ServerStream", 3, call(ECHO + "ServerStream", {"text": 7}), "(3)")
refused = call(ECHO + "ServerStream", {"text": "no"}, kind="text/plain")
assert refused[0] == 415, refused
check_failure("ServerStream", 3, refused, "code 3")
print(f"{count} messages of streams, in {len(SPLIT)} media types")
