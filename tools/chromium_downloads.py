"""Chromium as a client of downloads that break off: the browser, told what to do as its own developer tools tell it, and a
way to the server on which an answer breaks off half-way.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.parse

PIECE_BYTES = 1 << 16
PATIENCE_SECS = 60
FLAGS = [
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    # It asks for nothing but what it is told to, and takes no way round.
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
]
# Presses "Resume" in the menu of the only download that can go on, and says whether it is there already.
PRESS_RESUME = """(() => {
    const within = (root) => [...root.querySelectorAll('*')].flatMap(
        (one) => one.shadowRoot ? [one, ...within(one.shadowRoot)] : [one])
    const is_meant = (one) => one.id === 'pause-or-resume' && !one.hidden && one.textContent.trim() === 'Resume'
    const button = within(document).find(is_meant)
    if (button) button.click()
    return Boolean(button)
})()"""


def wait_for(what, look):
    """Looks until there is something to be seen, and gives it."""
    deadline = time.monotonic() + PATIENCE_SECS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{what}: nothing after {PATIENCE_SECS} s")


class Chromium:
    """One run of the browser, in a directory of its own."""

    def __init__(self, profile, downloads):
        commands, self.commands = os.pipe()
        self.events, events = os.pipe()
        # It reads from descriptor 3 and writes to 4, and neither may be in the other's way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, events)]
        flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        self.process = subprocess.Popen(
            ["chromium", *flags, f"--user-data-dir={profile}"], close_fds=False, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"LANGUAGE": "en"},
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)))
        for end in (commands, events, *ends):
            os.close(end)
        self.received, self.count = b"", 0
        self.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=downloads)

    def tell(self, method, session=None, **parameters):
        """Has something done, and gives what it answers."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        answer = wait_for(method, lambda: self._answer(self.count))
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def _answer(self, number):
        if not select.select([self.events], [], [], 0)[0]:
            return None
        piece = os.read(self.events, PIECE_BYTES)
        assert piece, "Chromium has ended"
        *messages, self.received = (self.received + piece).split(b"\0")
        # Of what it tells besides, nothing is of use.
        return next((one for one in map(json.loads, messages) if one.get("id") == number), None)

    def visit(self, url):
        return self.tell("Target.createTarget", url=url)["targetId"]

    def resume(self):
        """Goes on with the download that broke off, as its user would: by the button in the list of downloads."""
        page = self.visit("chrome://downloads/")
        session = self.tell("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        look = lambda: self.tell("Runtime.evaluate", session, expression=PRESS_RESUME, returnByValue=True)
        wait_for("a download that can be resumed", lambda: look()["result"].get("value"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            # With all that it has started.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE_SECS)
        os.close(self.commands)
        os.close(self.events)


class BrokenWay:
    """A port through which the server of a URL is reached, and on which the first answer that is so long breaks off after
    `bytes_max`: its connection comes to an `end`, or to a `reset`. Later ones come whole. Requests have no body. `exchanges` are
    the fields of all heads, by request and answer.
    """

    def __init__(self, url, bytes_max, how):
        parts = urllib.parse.urlsplit(url)
        self.server, self.bytes_max, self.how = (parts.hostname, parts.port), bytes_max, how
        self.exchanges, self.has_broken = [], False
        self.listener = socket.create_server(("127.0.0.1", 0))
        port = self.listener.getsockname()[1]
        self.url = parts._replace(netloc=f"127.0.0.1:{port}").geturl()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, socket.create_connection(self.server) as server:
            requests, answers = client.makefile("rb"), server.makefile("rb")
            try:
                while request := head_of(requests):
                    server.sendall(request)
                    answer = head_of(answers)
                    self.exchanges.append((fields_of(request), fields_of(answer)))
                    client.sendall(answer)
                    if not self._pass_on(int(fields_of(answer).get("content-length", 0)), answers, client):
                        return
            except OSError:
                # Either side has gone.
                return

    def _pass_on(self, length, answers, client):
        breaks = not self.has_broken and length > self.bytes_max
        left = self.bytes_max if breaks else length
        while left:
            piece = answers.read(min(left, PIECE_BYTES))
            client.sendall(piece)
            left -= len(piece)
        if not breaks:
            return True
        self.has_broken = True
        if self.how == "reset":
            # Whatever the client has read until it sees that, it goes on from there.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def head_of(stream):
    """Everything up to the empty line, or nothing where the stream has ended."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


def fields_of(head):
    """The fields of a head by their names in lower case, and its first line by the empty name."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    return {"": first} | {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
