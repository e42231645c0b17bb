"""What a user of the example API knows and its description does not: who is there to be read, changed, written to and named as an author,
and what an e-mail address is.

Lives here: hooks of schemathesis. Every second call names a user, a post and a comment that were just created for it; the others stay as they were
made up. Does not: checks of answers.
At the end, how often each operation succeeded is a line of JSON in the file that SHOP_SERVED names.
"""

import atexit
import collections
import json
import os
import pathlib
import re
import secrets
import urllib.request

import schemathesis
from schemathesis.generation.meta import TestPhase

CALLS = collections.Counter()
SERVED = collections.Counter()


class Shop:
    """Creates what a call is about to name."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def create(self, path: str, **fields: str) -> str:
        request = urllib.request.Request(self.url + path, json.dumps(fields).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["id"]

    def user(self) -> str:
        return self.create("/api/users", name="Ada", email=self.address())

    def address(self) -> str:
        return f"ada-{secrets.token_hex(8)}@example.org"

    def post(self) -> str:
        return self.create("/api/posts", authorId=self.user(), title="On looms")

    def comment(self, post: str) -> str:
        return self.create(f"/api/posts/{post}/comments", authorId=self.user(), text="How true.")

    def place(self, path: str) -> dict[str, str]:
        """Returns a value for each variable of a path like `/api/posts/{post_id}/comments/{id}`."""
        names, post = {}, ""
        for collection, name in re.findall(r"/(\w+)/\{([^}]+)\}", path):
            match collection:
                case "users":
                    names[name] = self.user()
                case "posts":
                    names[name] = post = self.post()
                case "comments":
                    names[name] = self.comment(post)
        return names


@schemathesis.hook
def before_call(context, case, kwargs):
    CALLS[case.operation.label] += 1
    if CALLS[case.operation.label] % 2:
        return
    shop = Shop(case.operation.base_url)
    for fields in (case.body, case.query):
        if isinstance(fields, dict) and "authorId" in fields:
            fields["authorId"] = shop.user()
        if isinstance(fields, dict) and "email" in fields:
            fields["email"] = shop.address()
    # Those are the phases of single calls. Stateful tests go on with what they created, and know what became of it.
    if case.path_parameters and case.meta is not None and case.meta.phase.name != TestPhase.STATEFUL:
        case.path_parameters.update(shop.place(case.path))


@schemathesis.hook
def after_call(context, case, response):
    SERVED[case.operation.label] += response.status_code < 300


@atexit.register
def report():
    pathlib.Path(os.environ["SHOP_SERVED"]).write_text(json.dumps(SERVED), "utf-8")
