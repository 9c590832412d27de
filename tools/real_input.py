#!/usr/bin/env python3
"""Moves real files through a real server: up by key, listed, down, compared; a restart in between; then deleted.

    tools/real_input.py BINARY DATA_DIR PATH [PATH...]

Every PATH is a file or a directory of files. Starts `BINARY serve --dev` itself, on a free port and in DATA_DIR, and
ends it. Needs nothing but Python. Exit code 0 means that every byte came back and that the list was empty at the end.
"""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse

NAMESPACE, TENANT = "artifacts", "real-input"
BLOCK_BYTES = 1 << 20


class Server:
    """One run of the server."""

    def __init__(self, binary, data_dir):
        self.process = subprocess.Popen(
            [binary, "serve", "--dev", "--data-dir", data_dir, "--listen-addr", "127.0.0.1:0",
             "--log-format", "json", "--log-level", "info"],
            stderr=open(os.path.join(data_dir + ".log"), "a+"))
        self.log = data_dir + ".log"
        self.offset = getattr(Server, "offset", 0)
        self.connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=60)

    def _port(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with open(self.log) as log:
                log.seek(self.offset)
                for line in log:
                    if line.endswith("\n") and "listening on" in line:
                        Server.offset = os.path.getsize(self.log)
                        return int(json.loads(line)["address"].rsplit(":", 1)[1])
            if self.process.poll() is not None:
                sys.exit("the server ended while it started; see " + self.log)
            time.sleep(0.02)
        sys.exit("the server did not start")

    def request(self, method, target, body=None, headers=None):
        self.connection.request(method, target, body=body, headers=headers or {})
        return self.connection.getresponse()

    def stop(self):
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            sys.exit("the server did not end well")


def files_of(paths):
    for path in paths:
        if os.path.isfile(path):
            yield path
            continue
        for directory, _, names in os.walk(path):
            for name in sorted(names):
                full = os.path.join(directory, name)
                if os.path.isfile(full) and not os.path.islink(full):
                    yield full


def key_of(path):
    return os.path.abspath(path).strip("/")


def target_of(key):
    return f"/v1/keys/{NAMESPACE}/{TENANT}/" + urllib.parse.quote(key)


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest


def upload(server, path):
    import base64
    digest = base64.b64encode(digest_of(path).digest()).decode()
    headers = {"Content-Length": str(os.path.getsize(path)), "Repr-Digest": f"sha-256=:{digest}:"}
    with open(path, "rb") as file:
        response = server.request("PUT", target_of(key_of(path)), file, headers)
    body = response.read()
    if response.status != 201:
        sys.exit(f"PUT {path}: {response.status} {body[:300]}")


def compare(server, path):
    response = server.request("GET", target_of(key_of(path)))
    if response.status != 200:
        sys.exit(f"GET {path}: {response.status} {response.read()[:300]}")
    with open(path, "rb") as file:
        while block := response.read(BLOCK_BYTES):
            if block != file.read(len(block)):
                sys.exit(f"{path} came back changed")
        if file.read(1):
            sys.exit(f"{path} came back shorter")


def listed(server):
    keys, cursor = [], None
    while True:
        target = f"/v1/objects?namespace={NAMESPACE}&tenant_id={TENANT}&limit=250"
        response = server.request("GET", target + (f"&cursor={cursor}" if cursor else ""))
        page = json.loads(response.read())
        keys += [entry["key"] for entry in page["objects"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return keys


def timed(what, count, bytes_moved, work):
    started = time.monotonic()
    work()
    seconds = time.monotonic() - started
    print(f"{what:34} {count:6} files {bytes_moved / 1e6:9.1f} MB {seconds:7.2f} s {bytes_moved / 1e6 / seconds:8.1f} MB/s")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    binary, data_dir, paths = sys.argv[1], os.path.abspath(sys.argv[2]), list(files_of(sys.argv[3:]))
    sizes = sum(os.path.getsize(path) for path in paths)
    each = lambda work: lambda: [work(path) for path in paths]
    server = Server(binary, data_dir)
    timed("up by key, digest checked", len(paths), sizes, each(lambda path: upload(server, path)))
    server.stop()
    server = Server(binary, data_dir)
    if sorted(listed(server)) != sorted(map(key_of, paths)):
        sys.exit("the list is not what was uploaded")
    timed("down after a restart, compared", len(paths), sizes, each(lambda path: compare(server, path)))
    for path in paths:
        response = server.request("DELETE", target_of(key_of(path)))
        response.read()
        if response.status != 204:
            sys.exit(f"DELETE {path}: {response.status}")
    if listed(server):
        sys.exit("objects are listed that were deleted")
    server.stop()
    print("every byte came back, and the list is empty")


if __name__ == "__main__":
    main()
