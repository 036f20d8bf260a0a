"""JupyterLab in a browser for the tests: a server, headless Chromium, and what its page is asked by the DevTools protocol."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import websocket

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)


class Page:
    """One page of the browser; ``faults`` are the exceptions of its scripts that nothing caught."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, suppress_origin=True, timeout=600)
        self.numbers, self.faults = itertools.count(1), []
        self.ask("Runtime.enable")

    def ask(self, method, **parameters):
        """The browser's answer to a command."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv())
            if said.get("method") == "Runtime.exceptionThrown":
                self.faults.append(said["params"]["exceptionDetails"])
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def run(self, script):
        """The value of a script (JavaScript, may wait), executed in the page."""
        said = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")


@contextlib.contextmanager
def lab(folder, own, variables):
    """JupyterLab on ``folder``, its page open in a browser; settings and logs of both in the folder ``own``."""
    with contextlib.ExitStack() as stack:
        environment = (
            os.environ | variables | {f"JUPYTER_{kind}_DIR": str(own / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
        )
        server = ["-m", "jupyterlab", "--no-browser", "--allow-root", "--IdentityProvider.token=tests", "--port-retries=99"]
        server += ["--expose-app-in-browser", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
        _start(stack, [sys.executable, *server], own / "server.log", environment, cwd=folder)
        info = json.loads(_until(lambda: next((own / "RUNTIME").glob("jpserver-*.json")).read_text()))
        _until(lambda: urllib.request.urlopen(f"{info['url']}api/status?token=tests").read())
        browser = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000"]
        browser += ["--remote-debugging-port=0", f"--user-data-dir={own / 'browser'}", "about:blank"]
        _start(stack, [CHROMIUM, *browser], own / "browser.log", os.environ | {"HOME": str(own)})
        port = _until(lambda: re.search(r"ws://127\.0\.0\.1:(\d+)", (own / "browser.log").read_text())[1])
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?{info['url']}lab?token=tests", method="PUT")
        page = Page(json.load(urllib.request.urlopen(asked))["webSocketDebuggerUrl"])
        stack.callback(page.socket.close)
        _until(lambda: page.run("window.jupyterapp.restored.then(() => true)"))
        yield page


def _start(stack, command, log, environment, **where):
    """Start a program that is ended with the stack."""
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment, **where)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def _until(ask, seconds=120):
    """The first answer of something that fails until it is ready."""
    deadline = time.time() + seconds
    while True:
        try:
            return ask()
        except (OSError, StopIteration, TypeError, ValueError, AssertionError):
            if time.time() > deadline:
                raise
            time.sleep(0.2)
