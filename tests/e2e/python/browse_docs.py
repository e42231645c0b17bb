"""Uses the page at /docs as a person would: `browse_docs.py CHROMIUM PAGE PICTURE`.

Lives here: a conversation with Chromium over its debugging pipe (file descriptors 3 and 4, messages end with a zero byte), and what is looked
for. Does not: anything beyond Python's own library. Every wait has a deadline; what went wrong is the exit code and the last line.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time

CHROMIUM, PAGE, PICTURE = sys.argv[1:4]
DEADLINE = 60


class Browser:
    def __init__(self, profile: str):
        theirs_in, self.to = os.pipe()
        self.out, theirs_out = os.pipe()

        def pipes():
            # Theirs may be 3 or 4 themselves.
            first, second = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync", "--mute-audio",
                 "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                 "--window-size=1280,900", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen([CHROMIUM, *flags, "about:blank"], preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.held, self.last, self.session, self.events = b"", 0, None, []

    def message(self) -> dict:
        while b"\0" not in self.held:
            more = os.read(self.out, 1 << 16)
            if not more:
                raise SystemExit("Chromium ended")
            self.held += more
        text, self.held = self.held.split(b"\0", 1)
        return json.loads(text)

    def ask(self, method: str, **parameters) -> dict:
        self.last += 1
        asked = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.to, json.dumps(asked).encode() + b"\0")
        while (answer := self.message()).get("id") != self.last:
            self.events.append(answer)
        if "error" in answer:
            raise SystemExit(f"{method}: {answer['error']}")
        return answer["result"]

    def value(self, expression: str):
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, what: str, expression: str):
        end = time.monotonic() + DEADLINE
        while not (found := self.value(expression)):
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for {what}; the page says:\n{self.value('document.body.innerText')}")
            time.sleep(0.05)  # between two looks at a state
        return found

    def key(self, key: str, code: str, modifiers: int = 0, text: str | None = None):
        parameters = {"key": key, "code": code, "modifiers": modifiers}
        codes = {"Enter": 13, "Tab": 9, "Slash": 191}
        parameters["windowsVirtualKeyCode"] = codes[code]
        self.ask("Input.dispatchKeyEvent", type="keyDown", **parameters, **({"text": text} if text else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def type(self, text: str):
        self.ask("Input.insertText", text=text)

    def picture(self, path: str):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


def use(browser: Browser):
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ["Page", "Runtime", "Log", "Network"]:
        browser.ask(f"{domain}.enable")
    browser.ask("Page.navigate", url=PAGE)
    browser.until("operations", "document.querySelectorAll('details.operation').length")

    # By keyboard alone: `/` leads to the filter, Tab from there to the one operation that is left, Enter opens it.
    browser.key("/", "Slash", text="/")
    browser.until("the filter", "document.activeElement.id === 'filter'")
    browser.type("post users.createuser")
    one = "[...document.querySelectorAll('details.operation')].filter(it => !it.hidden)"
    browser.until("one operation", f"{one}.length === 1 && {one}[0].id === 'shop.users.v1.Users.CreateUser'")
    for _ in range(8):
        if browser.value("document.activeElement.closest('details.operation') !== null"):
            break
        browser.key("Tab", "Tab")
    browser.key("Enter", "Enter", text="\r")
    browser.until("the form", f"{one}[0].open && {one}[0].querySelector('form textarea') !== null")
    example = browser.value(f"{one}[0].querySelector('form textarea').value")
    if json.loads(example) != {"name": "name", "email": "email"}:
        raise SystemExit(f"an odd example: {example}")
    # A name that would be markup, had it the chance.
    browser.value(f"{one}[0].querySelector('form textarea').select(); {one}[0].querySelector('form textarea').focus()")
    browser.type(json.dumps({"name": "<img src=x onerror=document.title='owned'>Ada", "email": "ada@example.com"}, indent=2))
    browser.key("Enter", "Enter", modifiers=2)
    status = browser.until("an answer", f"{one}[0].querySelector('.answer .status.good, .answer .status.bad')?.textContent")
    if not status.startswith("201"):
        raise SystemExit(f"answered {status}: {browser.value(one + '[0].querySelector(`.answer`).innerText')}")
    answer = browser.until("its body", f"{one}[0].querySelector('.answer pre').textContent")
    browser.value(f"{one}[0].querySelector('.answer').scrollIntoView({{block: 'end'}})")
    browser.picture(PICTURE)

    # The same as a form: the example is written anew.
    browser.value(f"""(() => {{ const form = {one}[0].querySelector('form');
        const body = form.querySelector('textarea'), type = form.querySelector('select');
        body.value = {json.dumps(example)};
        type.value = 'application/x-www-form-urlencoded'; type.dispatchEvent(new Event('change')); }})()""")
    example = browser.value(f"{one}[0].querySelector('form textarea').value")
    if example != "name=name&email=email":
        raise SystemExit(f"an odd example of a form: {example}")

    if browser.value("document.title") == "owned" or browser.value("document.querySelectorAll('main img').length"):
        raise SystemExit("what a service says became markup")
    complaints = [it for it in browser.events if it.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    complaints = [it for it in complaints if it["params"].get("entry", {}).get("level", "error") == "error"]
    if complaints:
        raise SystemExit(f"the browser complains: {complaints}")
    hosts = {it["params"]["request"]["url"].split("/")[2] for it in browser.events if it.get("method") == "Network.requestWillBeSent"
             and it["params"]["request"]["url"].startswith("http")}
    if hosts != {PAGE.split("/")[2]}:
        raise SystemExit(f"the page asks {hosts}")
    show_credentials(browser)
    print(json.dumps(json.loads(answer)))


# Makes the page read a document whose first operation wants a key, and takes a header; keeps what it sends.
GUARDED = """
    const real = window.fetch;
    window.fetch = async (url, init) => {
        if (url !== '/openapi.json') window.sent = { url, headers: init.headers };
        const answer = await real(url, init);
        if (url !== '/openapi.json' || init.method === 'HEAD') return answer;
        const api = await answer.json();
        api.components.securitySchemes = { 'key.x-api-key': { type: 'apiKey', in: 'header', name: 'x-api-key' }, certificate: { type: 'mutualTLS' } };
        const list = api.paths['/api/users'].get;
        list.security = [{ 'key.x-api-key': [] }, { certificate: [] }];
        list.parameters.push({ name: 'If-Match', in: 'header', schema: { type: 'string' } });
        return new Response(JSON.stringify(api), { headers: answer.headers });
    };
"""


def show_credentials(browser: Browser):
    browser.ask("Page.addScriptToEvaluateOnNewDocument", source=GUARDED)
    browser.ask("Page.navigate", url="about:blank")
    browser.ask("Page.navigate", url=PAGE)
    card = "document.getElementById('shop.users.v1.Users.ListUsers')"
    browser.until("operations", f"{card} !== null")
    browser.value(f"{card}.open = true")
    browser.until("the form", f"{card}.querySelector('form') !== null")
    said = browser.value(f"{card}.innerText")
    if "Needs a key in x-api-key, or a client certificate." not in said:
        raise SystemExit(f"not what it needs: {said}")
    browser.value("document.getElementById('credential-key.x-api-key').value = 'weft_key'")
    browser.value(f"[...{card}.querySelectorAll('.parameter')].find(it => it.textContent.includes('If-Match')).querySelector('input').value = '\"v1\"'")
    browser.value(f"{card}.querySelector('form').requestSubmit()")
    browser.until("an answer", f"{card}.querySelector('.answer .status.good, .answer .status.bad') !== null")
    sent = browser.value("window.sent")
    if sent["url"] != "/api/users" or sent["headers"].get("x-api-key") != "weft_key" or sent["headers"].get("If-Match") != '"v1"':
        raise SystemExit(f"not what was typed: {sent}")


with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = Browser(profile)
    try:
        use(browser)
    finally:
        browser.process.kill()
        browser.process.wait()
