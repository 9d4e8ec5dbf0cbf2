"""A headless Chromium, driven over the pipe of its DevTools protocol: no driver, no library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Chromium:
    """One page of a headless Chromium."""

    def __init__(self, profile, *, width=1100, height=900):
        """Start Chromium with ``profile`` as its folder for all that it writes."""
        its_input, self._input = os.pipe()
        self._output, its_output = os.pipe()
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"),
        )
        # The protocol is spoken on the descriptors 3 and 4.
        shell = f'exec "$0" "$@" 3<&{its_input} 4>&{its_output}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, PROGRAM, *options],
            pass_fds=(its_input, its_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_input)
        os.close(its_output)
        self._numbers = itertools.count(1)
        self._read = b""
        self.requests = []
        self.problems = []
        target = self.call("Target.createTarget", url="about:blank", session=None)["targetId"]
        attach = {"targetId": target, "flatten": True, "session": None}
        self._session = self.call("Target.attachToTarget", **attach)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._input)
        self._process.terminate()
        self._process.wait(10)
        os.close(self._output)

    def call(self, method, *, session="page", **parameters):
        """Return the answer to a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session == "page":
            message["sessionId"] = self._session
        os.write(self._input, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _next(self):
        end = time.monotonic() + 30
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._output], [], [], end - time.monotonic())
            assert ready, "Chromium did not answer within 30 s"
            part = os.read(self._output, 1 << 16)
            assert part, "Chromium ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        details = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(details["exceptionDetails"]["text"])
        elif event.get("method") == "Log.entryAdded":
            self.problems.append(details["entry"]["text"])

    def run(self, expression):
        """Return the value of a JavaScript expression; promises are awaited."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, url):
        """Go to a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def wait_for(self, expression, *, seconds=20):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < end, f"still false: {expression}"
            time.sleep(0.02)

    def press(self, key, *, modifiers=0):
        """Press a key: Tab, Enter, ArrowDown, Space; modifiers: 2 is Ctrl, 8 is Shift."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), "ArrowDown": (40, ""), " ": (32, " ")}
        code, text = codes[key]
        options = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code}
        options["code"] = "Space" if key == " " else key
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **options)
        self.call("Input.dispatchKeyEvent", type="keyUp", **options)

    def type(self, text):
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path):
        """Write a PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
