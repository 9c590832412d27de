#!/usr/bin/env python3
"""How much space a store takes after a churn of small objects, against the bytes that live in it.

usage: perf/space.py BINARY DIRECTORY [LIVE_MEGABYTES [ROUNDS]]

Each of ROUNDS puts new objects of 1 to 64 KiB in place of as many that it deletes at random, as many bytes as live. Then
the collector has its turn, and what the packs take of the disk is compared with the promise: twice the live bytes and two
packs for each core and class.
"""

import http.client
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CLIENTS = 8
PACK_BYTES_MAX = 256 << 20
PORT = 18090


class Client:
    """One connection and the objects that it has put."""

    def __init__(self, seed, live_bytes):
        self.random = random.Random(seed)
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT)
        self.live_bytes = live_bytes
        self.objects = []
        self.bytes = 0

    def ask(self, method, target, body=None):
        self.connection.request(method, target, body)
        response = self.connection.getresponse()
        answer = response.read()
        assert response.status in (201, 204), (method, target, response.status, answer)
        return answer

    def churn(self, put_bytes):
        while put_bytes > 0:
            body = self.random.randbytes(self.random.randint(1 << 10, 64 << 10))
            answer = json.loads(self.ask("POST", "/v1/objects?namespace=churn&tenant_id=churn", body))
            self.objects.append((answer["id"], len(body)))
            self.bytes += len(body)
            put_bytes -= len(body)
            while self.bytes > self.live_bytes:
                index = self.random.randrange(len(self.objects))
                self.objects[index], self.objects[-1] = self.objects[-1], self.objects[index]
                object_id, length = self.objects.pop()
                self.ask("DELETE", f"/v1/objects/{object_id}")
                self.bytes -= length


def packs(directory):
    """The bytes that packs take, and how many there are."""
    sizes = [path.stat().st_blocks * 512 for path in directory.glob("*/packs/*.pack")]
    return sum(sizes), len(sizes)


def main():
    binary, directory = sys.argv[1], Path(sys.argv[2])
    live_bytes = int(sys.argv[3] if len(sys.argv) > 3 else 256) << 20
    rounds = int(sys.argv[4] if len(sys.argv) > 4 else 8)
    directory.mkdir(parents=True)
    arguments = ["--data-dir", directory, "--listen-addr", f"127.0.0.1:{PORT}", "--log-level", "warn"]
    arguments += ["--gc-interval-secs", "10", "--gc-grace-secs", "0", "--gc-batch-size", "1000"]
    server = subprocess.Popen([binary, "serve", "--dev", *arguments])
    try:
        cores = len(os.sched_getaffinity(0))
        clients = [Client(seed, live_bytes // CLIENTS) for seed in range(CLIENTS)]
        time.sleep(2)
        for turn in range(rounds + 1):
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(lambda client: client.churn(live_bytes // CLIENTS), clients))
            live = sum(client.bytes for client in clients)
            taken, count = packs(directory)
            print(f"round {turn}: {live >> 20} MiB live, {taken >> 20} MiB in {count} packs", flush=True)
        bound = 2 * live + 2 * cores * PACK_BYTES_MAX
        started = time.monotonic()
        while True:
            time.sleep(10)
            waited = int(time.monotonic() - started)
            taken, count = packs(directory)
            print(f"{waited} s later: {taken >> 20} MiB in {count} packs, {taken / live:.2f} of what lives", flush=True)
            if waited >= 60:
                break
        print(f"{taken >> 20} MiB, and {bound >> 20} MiB are promised: {'held' if taken <= bound else 'NOT HELD'}")
    finally:
        server.terminate()
        server.wait()


main()
